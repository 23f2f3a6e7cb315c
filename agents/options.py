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


def check_whole(least: int, /, **values: Any) -> None:
    """Refuse values that are neither whole numbers of at least `least` nor None.

    Raises:
        EtoGymError: One is another thing.
    """
    for name, value in values.items():
        if value is None:
            continue
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise EtoGymError(f"expected {name} as a whole number, got {value!r:.80}")
        if value < least:
            raise EtoGymError(f"expected {name} >= {least}, got {value}")


def check_finite(**values: Any) -> None:
    """Refuse values that are no finite numbers.

    Raises:
        EtoGymError: One is another thing.
    """
    for name, value in values.items():
        real = isinstance(value, Real) and not isinstance(value, bool)
        if not real or not math.isfinite(value):
            raise EtoGymError(f"expected {name} as a finite number, got {value!r:.80}")


def check_flags(**values: Any) -> None:
    """Refuse values that are neither True nor False.

    Raises:
        EtoGymError: One is another thing.
    """
    for name, value in values.items():
        if not isinstance(value, bool):
            raise EtoGymError(f"expected {name} as true or false, got {value!r:.80}")


def check_mapping(**values: Any) -> None:
    """Refuse values that are neither mappings nor None.

    Raises:
        EtoGymError: One is another thing.
    """
    for name, value in values.items():
        if value is not None and not isinstance(value, Mapping):
            raise EtoGymError(f"expected {name} as a JSON object, got {value!r:.80}")


def check_sampling(temperature: Any, top_p: Any) -> None:
    """Refuse a temperature and a `top_p` by which no token can be picked.

    Raises:
        EtoGymError: One is no finite number, or out of its range.
    """
    check_finite(temperature=temperature, top_p=top_p)
    if temperature < 0 or not 0 < top_p <= 1:
        raise EtoGymError(
            f"expected temperature >= 0 and 0 < top_p <= 1, got {temperature} and {top_p}"
        )
