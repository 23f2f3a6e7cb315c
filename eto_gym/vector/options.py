"""Splits the seeds and options of a vector environment into those of its slots."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")
PerSlot: TypeAlias = Mapping[int, T | None] | Sequence[T | None]

Options: TypeAlias = dict[str, Any]


def split_seed(seed: int | Sequence[int | None] | None, count: int) -> list[int | None]:
    """Return one seed per slot.

    Args:
        seed: None, an integer for the first slot (each further one gets one more), or one per slot.
        count: Number of slots.

    Raises:
        TypeError: A seed is no whole number.
        ValueError: There are more or fewer seeds than slots.
    """
    if seed is None:
        return [None] * count
    if isinstance(seed, int | np.integer):
        return [int(seed) + i for i in range(count)]
    seeds = list(seed)
    if len(seeds) != count:
        raise ValueError(f"expected {count} seeds, got {len(seeds)}")
    # `index` cuts nothing off, as `int` does.
    return [None if one is None else operator.index(one) for one in seeds]


def split_options(
    options: Options | Sequence[Options | None] | None, count: int
) -> tuple[npt.NDArray[np.bool_] | None, list[Options | None]]:
    """Return the reset mask, if there is one, and the options of each slot.

    Args:
        options: Options for all, in which a list holds one value per slot (None for none); or a
            list or tuple of one dictionary per slot.
        count: Number of slots.

    Raises:
        TypeError: The options, those of a slot, or the mask are of another type.
        ValueError: A list is not as long as there are slots, or the mask names no slot.
    """
    if options is None:
        return None, [None] * count
    if isinstance(options, list | tuple):
        if len(options) != count:
            raise ValueError(f"expected options for {count} environments, got {len(options)}")
        for one in options:
            if not (one is None or isinstance(one, dict)):
                raise TypeError(f"expected options of type dict or None, got {one!r}")
        return None, list(options)
    if not isinstance(options, dict):
        raise TypeError(f"expected options of type dict, list or None, got {options!r}")
    mask = read_mask(options["reset_mask"], count) if "reset_mask" in options else None
    per_slot: list[Options] = [{} for _ in range(count)]
    for name, value in options.items():
        if name == "reset_mask":
            continue
        values = value if isinstance(value, list) else [value] * count
        if len(values) != count:
            raise ValueError(
                f"expected option {name!r} to be one value, or a list of {count}, one per "
                f"environment; got a list of {len(values)}"
            )
        for own, one in zip(per_slot, values, strict=True):
            if one is not None:
                own[name] = one
    return mask, list(per_slot)


def read_mask(mask: Any, count: int) -> npt.NDArray[np.bool_]:
    """Check a reset mask, an array of `count` booleans.

    Raises:
        TypeError: It is no array of booleans.
        ValueError: It is of another shape, or names no slot.
    """
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        raise TypeError(f"expected reset_mask to be an array of booleans, got {mask!r}")
    if mask.shape != (count,):
        raise ValueError(f"expected reset_mask to have shape ({count},), got {mask.shape}")
    if not mask.any():
        raise ValueError("expected reset_mask to name one slot at least")
    return mask
