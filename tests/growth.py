"""Tells linear from quadratic time, on a machine that is busy with other things."""

from __future__ import annotations

import time
from collections.abc import Callable

DOUBLINGS = 4
_UNMEASURABLE = 0.05  # CPU seconds; below it, a ratio says nothing


def seconds(work: Callable[[], object]) -> float:
    """Return the CPU time of this thread that `work` takes."""
    before = time.thread_time()
    work()
    return time.thread_time() - before


def check_linear(work: Callable[[str], object], make: Callable[[int], str], length: int) -> None:
    """Fail when a text of 16 times the length takes over 80 times as long.

    What is linear takes 16 times as long, what is quadratic 256 times. A run too short to be
    measured counts as linear: at 16 times the length, or at twice the length if what is quadratic
    could not be measured at 16 times either.

    Args:
        work: Is called with the texts.
        make: Returns a text of about the given number of characters.
        length: Of the shorter text.
    """
    glance = make(length << 1)
    if seconds(lambda: work(glance)) < _UNMEASURABLE / (1 << 2 * (DOUBLINGS - 1)):
        return
    short, long = make(length), make(length << DOUBLINGS)
    for _ in range(3):  # a busy machine slows single runs down, but hardly three pairs of them
        slow = seconds(lambda: work(long))
        quick = seconds(lambda: work(short))
        if slow < 5 * (1 << DOUBLINGS) * max(quick, _UNMEASURABLE / (5 << DOUBLINGS)):
            return
    raise AssertionError(
        f"{len(short)} characters take {quick:.4f} s and {len(long)} take {slow:.4f} s: "
        f"{long[:60]!r}"
    )
