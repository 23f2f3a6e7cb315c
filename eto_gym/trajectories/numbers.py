"""Numbers as files have them: JSON knows integers of any length, and floats do not."""

from __future__ import annotations

import math
from typing import Any


def is_number(value: Any) -> bool:
    """Whether a value is a number that a float can hold.

    Example:
        >>> [is_number(value) for value in (1, 0.5, True, float("nan"), 10**400, "1")]
        [True, True, False, False, False, False]
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
