"""Threads in the place of processes that work together."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from eto_gym.trainers.run.process_group import ProcessGroup

T = TypeVar("T")


class _Meeting:
    """Where threads exchange what processes would send; each send is a pickle, as there."""

    def __init__(self, count: int) -> None:
        self.barrier = threading.Barrier(count, timeout=30.0)
        self.sent: list[bytes] = [b""] * count


@dataclass(frozen=True)
class ThreadRanks(ProcessGroup):
    """One of several threads that stand for processes."""

    meeting: Any = None

    def _gather(self, value: Any) -> list[Any]:
        self.meeting.sent[self.index] = pickle.dumps(value)
        self.meeting.barrier.wait()
        received = [pickle.loads(item) for item in self.meeting.sent]  # noqa: S301
        self.meeting.barrier.wait()
        return received

    def _broadcast(self, value: Any) -> Any:
        return self._gather(value)[0]


def together(count: int, work: Callable[[ProcessGroup], T]) -> list[T | Exception]:
    """Do `work` in each of `count` processes; return what each returned or raised."""
    meeting = _Meeting(count)

    def attempt(index: int) -> T | Exception:
        try:
            return work(ThreadRanks(index, count, meeting=meeting))
        except Exception as err:
            return err

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(attempt, range(count)))
