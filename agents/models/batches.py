"""Which conversations are decoded together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

PASS = 4 << 20
"""Bytes that could be read in the time that a layer takes, in a pass, beside reading."""

ROOM = 1 << 30
"""Bytes of keys and values that may always lie side by side."""

_SHORT = 4
"""Beyond `ROOM`, passes that they may take as long as to read: what is saved in memory costs time,
a fourth of it here at most."""

_LEAVING = 2
"""Rows leave as their replies end, about half are there on average: a pass weighs so much more."""


class Costs:
    """What decoding passes cost on a device where they take as long as what they read.

    That is so on a CPU. A pass reads all weights once, and the keys and values of its rows, of
    each as many as of the longest. So rows of much the same length belong together, and short ones
    not with long ones once the columns saved outweigh the weights read once more.
    """

    def __init__(self, *, weights: int, layers: int, token: int) -> None:
        """Take the model's sizes.

        Args:
            weights: Bytes of all weights.
            layers: How many there are.
            token: Bytes of a token's keys and values in all layers.
        """
        self._pass = (weights + layers * PASS) / token
        self._room = max(ROOM / token, _SHORT * self._pass)

    def cut(self, lengths: Sequence[int], most: int) -> list[slice]:
        """Return the batches that together cost least.

        Args:
            lengths: Columns of every row, from the shortest to the longest.
            most: Rows of a batch.
        """
        count = len(lengths)
        if not count:
            return []
        if count <= most and count * lengths[-1] <= self._room:
            saved = sum(lengths[-1] - length for length in lengths)
            if saved <= _LEAVING * self._pass:  # no cut saves that much
                return [slice(0, count)]
        # Of the first n rows the least cost, in columns, and where their last batch begins.
        least, begins = [0.0], [0]
        for end in range(1, count + 1):
            cost, begin = min(
                (least[start] + _LEAVING * self._pass + (end - start) * lengths[end - 1], start)
                for start in range(max(0, end - most), end)
                if end - start == 1 or (end - start) * lengths[end - 1] <= self._room
            )
            least.append(cost)
            begins.append(begin)
        ends = [count]
        while ends[-1]:
            ends.append(begins[ends[-1]])
        return [slice(first, last) for first, last in pairwise(reversed(ends))]
