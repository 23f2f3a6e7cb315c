"""Where environments step: in the engine's own thread, or in threads beside it."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from eto_gym.agents.policy import PolicyReply
from eto_gym.agents.slot import Slot
from eto_gym.trajectories import Trajectory

Work: TypeAlias = Callable[[], Trajectory | None]
"""A slot's `start` or `advance` with its argument; returns a trajectory if the episode ended."""


@dataclass(frozen=True, slots=True)
class Event:
    """What the engine is told.

    Attributes:
        slot: Whose news it is.
        outcome: A trajectory: the episode has ended. None: the environment waits for the policy. A
            future that is done: the policy's reply. An exception: the run cannot go on.
    """

    slot: Slot
    outcome: Trajectory | Future[PolicyReply] | BaseException | None


Events: TypeAlias = "queue.SimpleQueue[Event]"


class Stepper(Protocol):
    """Does the work of slots and puts an `Event` for each into the engine's queue."""

    def submit(self, slot: Slot, work: Work) -> None:
        """Do the work of a slot, which has no other work."""
        ...

    def overdue(self) -> list[Slot]:
        """Return slots whose work takes too long; what it comes to later is thrown away."""
        ...

    @property
    def deadline(self) -> float | None:
        """The time (`time.monotonic`) at which the next slot will be overdue, if any can be."""
        ...

    def close(self) -> set[Slot]:
        """Stop; return the slots that are still at work, and will be closed when that ends."""
        ...


class InlineStepper:
    """Steps at once in the calling thread.

    Python runs one thread at a time, so for an environment in pure Python threads gain nothing.
    """

    deadline: float | None = None

    def __init__(self, events: Events) -> None:
        """Create the stepper.

        Args:
            events: Receives the outcomes.
        """
        self._events = events

    def submit(self, slot: Slot, work: Work) -> None:
        """Do the work; an exception goes straight to the caller."""
        self._events.put(Event(slot, work()))

    def overdue(self) -> list[Slot]:
        """Return nothing: work that does not return cannot be left alone here."""
        return []

    def close(self) -> set[Slot]:
        """Return nothing: no slot is at work between two calls."""
        return set()


class ThreadStepper:
    """Steps in threads, while the policy generates in the engine's.

    That pays where a step waits for another process or releases the interpreter lock. A thread
    whose work takes longer than the time limit is left behind, and another one takes its place; if
    the work ends after all, the thread closes the environment.
    """

    def __init__(self, events: Events, *, threads: int, timeout: float | None = None) -> None:
        """Start the threads.

        Args:
            events: Receives the outcomes.
            threads: How many environments may step at the same time.
            timeout: Seconds that one piece of work may take, from its beginning; None: any time.
        """
        self._events = events
        self._timeout = timeout
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[tuple[int, Slot, Work] | None] = queue.SimpleQueue()
        self._tickets = itertools.count()
        self._running: dict[int, tuple[float, Slot]] = {}  # in order of their beginning
        self._threads = 0
        for _ in range(threads):
            self._add_thread()

    def submit(self, slot: Slot, work: Work) -> None:
        """Queue the work."""
        self._queue.put((next(self._tickets), slot, work))

    @property
    def deadline(self) -> float | None:
        """When the work that began first will be overdue."""
        if self._timeout is None:
            return None
        with self._lock:
            begun = min((begun for begun, _ in self._running.values()), default=time.monotonic())
        return begun + self._timeout

    def overdue(self) -> list[Slot]:
        """Leave behind what takes too long, and return its slots."""
        if self._timeout is None:
            return []
        late = []
        with self._lock:
            limit = time.monotonic() - self._timeout
            for ticket, (begun, slot) in list(self._running.items()):
                if begun <= limit:
                    del self._running[ticket]
                    late.append(slot)
        for _ in late:
            self._add_thread()
        return late

    def close(self) -> set[Slot]:
        """Drop what has not begun, and let every thread end after its present work."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        with self._lock:
            at_work = {slot for _, slot in self._running.values()}
            self._running.clear()
        for _ in range(self._threads):
            self._queue.put(None)
        return at_work

    def _add_thread(self) -> None:
        self._threads += 1
        threading.Thread(target=self._work, name="eto-gym-step", daemon=True).start()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            ticket, slot, work = item
            with self._lock:
                self._running[ticket] = (time.monotonic(), slot)
            outcome: Trajectory | BaseException | None
            try:
                outcome = work()
            except BaseException as err:  # raised again in the engine's thread
                outcome = err
            with self._lock:
                wanted = self._running.pop(ticket, None) is not None
            if not wanted:
                slot.close()
                return
            self._events.put(Event(slot, outcome))
