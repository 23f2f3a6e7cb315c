"""Memory that is free and yet held by this process."""

from __future__ import annotations

import ctypes
import functools
import gc
import mmap
from collections.abc import Callable
from pathlib import Path

HELD = 1 << 30
"""Resident bytes from which a process looks for what is done with, which takes a third of a second.
"""


def release_memory() -> None:
    """Let go of what is done with, in a process that holds much.

    A trainer and its model refer to each other: their weights, gradients and moments stay until
    the garbage is collected, and what is free by then stays with the C library.
    """
    if resident_bytes() >= HELD:
        gc.collect()
        return_freed_memory()


def resident_bytes() -> int:
    """Return the resident bytes of this process; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # not Linux
        return 0
    return pages * mmap.PAGESIZE


def return_freed_memory() -> None:
    """Return what the C library holds of freed memory to the system; only glibc can be told to.

    glibc keeps freed tensors of up to 32 MB for later ones. Where the rows of a pass differ in
    length from those of the next, the later ones do not fit, and the process grows.
    """
    if (trim := _malloc_trim()) is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    """Return glibc's function, or None where the process runs on another C library."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # TypeError: Windows has no library of that name
        return None
