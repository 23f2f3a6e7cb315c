"""Guesses at what a reply says next: what followed the same words before (prompt lookup)."""

from __future__ import annotations

from collections.abc import Sequence

LONGEST = 3
"""Tokens that must have stood before in the same order; fewer where so many did not."""


class Lookup:
    """The tokens of one conversation, and where each short run of them stood last.

    Agents repeat what they read: the names of things and places, and the form of their own replies.
    """

    __slots__ = ("_ids", "_last")

    def __init__(self, ids: Sequence[int]) -> None:
        self._ids: list[int] = []
        # Of runs of n tokens: the position after the last of them that a token has followed.
        self._last: list[dict[tuple[int, ...], int]] = [{} for _ in range(LONGEST)]
        for token in ids:
            self.add(token)

    def add(self, token: int) -> None:
        """Take in the token that came next."""
        ids = self._ids
        at = len(ids)
        for n in range(1, min(LONGEST, at) + 1):
            self._last[n - 1][tuple(ids[-n:])] = at
        ids.append(token)

    def guess(self, count: int) -> list[int]:
        """Return at most so many tokens that may come next; none where nothing is known."""
        ids = self._ids
        for n in range(min(LONGEST, len(ids)), 0, -1):
            at = self._last[n - 1].get(tuple(ids[-n:]))
            if at is not None:
                return ids[at : at + count]
        return []
