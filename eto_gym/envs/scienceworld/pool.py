"""The lanes of this process: which lane an environment joins, and what happens on fork and exit."""

from __future__ import annotations

import atexit
import os
import threading

from eto_gym.envs.scienceworld.lane import Lane

_lock = threading.Lock()
_shared: dict[str | None, list[Lane]] = {}
_all: list[Lane] = []


def default_lanes() -> int:
    """Return the number of shared lanes when none is asked for: one per core, two at most.

    A step keeps one core busy, and a JVM takes about a quarter of a gigabyte.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(2, cores or 1)


def join(*, shared: bool, lanes: int, java: str | None) -> Lane:
    """Return the lane that one more environment shall use, counted as its member.

    Args:
        shared: Use the least occupied of the shared lanes; otherwise a lane of its own.
        lanes: How many shared lanes there may be.
        java: Java executable, or None to look for one.
    """
    with _lock:
        _all[:] = [lane for lane in _all if lane.members > 0 or lane.jvm is not None]
        if not shared:
            lane = Lane(java)
            _all.append(lane)
        else:
            group = _shared.setdefault(java, [])
            while len(group) < lanes:
                group.append(Lane(java))
            lane = min(group[:lanes], key=lambda lane: lane.members)
            if lane not in _all:
                _all.append(lane)
        lane.joined += 1
        return lane


def stop_all() -> None:
    """Stop every JVM of this process; environments start new ones when they are used again."""
    for lane in list(_all):
        if lane.owner == os.getpid():
            lane.stop()


def _forget_in_child() -> None:
    global _lock
    _lock = threading.Lock()  # another thread of the parent may have held it
    for lane in _all:
        lane.forget_in_child()
    _all.clear()
    _shared.clear()


atexit.register(stop_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
