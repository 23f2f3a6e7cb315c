"""Merges the infos of single environments into that of a vector environment."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np


def batch_infos(infos: Iterable[tuple[int, dict[str, Any]]], count: int) -> dict[str, Any]:
    """Batch infos as Gymnasium's vector environments do, many times faster.

    Every key becomes an array with one entry per environment, and gets a companion `_key`: a mask
    of the environments that have it. Numbers and booleans become arrays of their kind, equal-shaped
    arrays are stacked, dictionaries are batched in their turn, and all else (text, lists, None)
    becomes an array of objects, as is `final_obs`. Where kinds differ, integers and floats become
    floats, and anything else objects (Gymnasium would force the first one's kind upon the others).

    Args:
        infos: Pairs of an environment's index and its info; an index occurs at most once.
        count: Number of environments.
    """
    columns: dict[str, tuple[list[int], list[Any]]] = {}
    for index, info in infos:
        for key, value in info.items():
            column = columns.get(key)
            if column is None:
                columns[key] = ([index], [value])
            else:
                column[0].append(index)
                column[1].append(value)
    batch: dict[str, Any] = {}
    for key, (indices, values) in columns.items():
        batch[key] = _column(key, indices, values, count)
        mask = np.zeros(count, dtype=np.bool_)
        mask[indices] = True
        batch[f"_{key}"] = mask
    return batch


def _column(key: str, indices: list[int], values: list[Any], count: int) -> Any:
    kinds = set(map(type, values))
    if kinds == {dict} and key != "final_obs":
        return batch_infos(zip(indices, values, strict=True), count)
    if kinds == {int, float}:
        kinds = {float}
    if len(kinds) == 1 and key != "final_obs":
        (kind,) = kinds
        if kind in (int, float, bool) or issubclass(kind, np.number):
            numbers = np.zeros(count, dtype=kind)
            numbers[indices] = values
            return numbers
        if issubclass(kind, np.ndarray) and len({(v.shape, v.dtype) for v in values}) == 1:
            stacked = np.zeros((count, *values[0].shape), dtype=values[0].dtype)
            stacked[indices] = values
            return stacked
    objects = np.full(count, None, dtype=object)
    for index, value in zip(indices, values, strict=True):
        objects[index] = value
    return objects
