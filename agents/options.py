"""Checks of what a user gives a policy: the kinds of its options, each error one line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from eto_gym.errors import EtoGymError


def stop_strings(stop: str | Sequence[str]) -> tuple[str, ...]:
    """Return the strings that end a reply; a text alone is one of them.

    Example:
        >>> stop_strings("Observation:")
        ('Observation:',)

    Raises:
        EtoGymError: One is empty or no text.
    """
    found = (stop,) if isinstance(stop, str) else stop
    if not isinstance(found, Sequence) or not all(isinstance(s, str) and s for s in found):
        raise EtoGymError(f"expected stop as a text or a list of texts, none empty, got {stop!r}")
    return tuple(found)


def check_whole(**values: Any) -> None:
    """Refuse values that are neither whole numbers nor None."""
    for name, value in values.items():
        if value is not None and (not isinstance(value, Integral) or isinstance(value, bool)):
            raise EtoGymError(f"expected {name} as a whole number, got {value!r:.80}")


def check_finite(**values: Any) -> None:
    """Refuse values that are no finite numbers."""
    for name, value in values.items():
        real = isinstance(value, Real) and not isinstance(value, bool)
        if not real or not math.isfinite(value):
            raise EtoGymError(f"expected {name} as a finite number, got {value!r:.80}")


def check_mapping(**values: Any) -> None:
    """Refuse values that are neither mappings nor None."""
    for name, value in values.items():
        if value is not None and not isinstance(value, Mapping):
            raise EtoGymError(f"expected {name} as a JSON object, got {value!r:.80}")
