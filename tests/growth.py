"""Tells linear from quadratic time, on a machine that is busy with other things."""

from __future__ import annotations

import time
from collections.abc import Callable

DOUBLINGS = 4
_UNMEASURABLE = 0.05  # CPU seconds; below it, a ratio says nothing


def seconds(work: Callable[[], object]) -> float:
    """Return the CPU time of this thread that `work` takes: the better of two runs."""
    best = float("inf")
    for _ in range(2):
        before = time.thread_time()
        work()
        best = min(best, time.thread_time() - before)
    return best


def check_linear(work: Callable[[str], object], make: Callable[[int], str], length: int) -> None:
    """Fail when a text of 16 times the length takes over 48 times as long.

    What is linear takes 16 times as long, what is quadratic 256 times. A run too short to be
    measured counts as linear.

    Args:
        work: Is called with the texts.
        make: Returns a text of about the given number of characters.
        length: Of the shorter text.
    """
    short, long = make(length), make(length << DOUBLINGS)
    slow = seconds(lambda: work(long))
    if slow < _UNMEASURABLE:
        return
    quick = seconds(lambda: work(short))
    assert slow < 3 * (1 << DOUBLINGS) * max(quick, _UNMEASURABLE / (1 << DOUBLINGS)), (
        f"{len(short)} characters take {quick:.4f} s and {len(long)} take {slow:.4f} s: "
        f"{long[:60]!r}"
    )
