"""Memory that is free and yet held by this process."""

from __future__ import annotations

import ctypes
import functools
import gc
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path

HELD = 1 << 30
"""Resident bytes from which a process looks for what is done with, which takes a third of a second.
"""


_GROUPS = Path("/proc/self/cgroup")
_GROUPS_ROOT = Path("/sys/fs/cgroup")


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


@functools.cache
def memory_limit() -> int:
    """Return the bytes that this process may hold: the machine's, or its control groups' limit.

    Reads the files of control groups of both versions; 0 where the system tells nothing.
    """
    try:
        limits = [os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE]
    except (AttributeError, OSError, ValueError):  # AttributeError: Windows
        limits = []
    for file in _limit_files():
        try:
            limits.append(int(file.read_text()))
        except (OSError, ValueError):  # there is no such group here; "max"
            continue
    return min((limit for limit in limits if limit > 0), default=0)


def _limit_files() -> Iterator[Path]:
    """Yield the files that may hold a limit of this process: its groups' and all above them."""
    try:
        lines = _GROUPS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, name = _GROUPS_ROOT, "memory.max"
        elif "memory" in controllers.split(","):
            top, name = _GROUPS_ROOT / "memory", "memory.limit_in_bytes"
        else:
            continue
        own = top / path.strip("/")
        # In a container, the path may be the host's, and the group the one at the top.
        yield from (folder / name for folder in (own, *own.parents) if folder.is_relative_to(top))


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
