"""Environments in this process, which share everything that can be shared."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Hashable, Sequence
from typing import Any, TypeAlias

from eto_gym.env import TextEnv
from eto_gym.vector.group import (
    Answer,
    Description,
    EnvGroup,
    EnvMaker,
    Failure,
    NotCopied,
    Operation,
    Request,
)

_Done: TypeAlias = "queue.SimpleQueue[Answer | BaseException | None]"


class LocalBackend(NotCopied):
    """Plays in the calling thread; or, where environments wait for lanes, in threads per lane."""

    def __init__(self, make_env: EnvMaker, count: int, *, same_step: bool) -> None:
        """Make the environments; see `EnvGroup`."""
        self.group = EnvGroup(make_env, range(count), same_step=same_step)
        self._answers: deque[Answer] = deque()
        self._lanes: dict[Hashable, _Lane] = {}
        self._done: _Done = queue.SimpleQueue()
        self._under_way = 0
        self._has_lanes = self._lane_of(0) is not None

    def describe(self) -> Description:
        """See `EnvGroup.describe`."""
        return self.group.describe()

    def refresh(self) -> None:
        """Do nothing: what runs in this process cannot die on its own."""

    def take_losses(self) -> list[tuple[Sequence[int], str]]:
        """See `ProcessBackend.take_losses`."""
        return []

    def submit(self, requests: Sequence[Request]) -> None:
        """Play; without lanes, the answers are there when this returns."""
        if not self._has_lanes:
            try:
                self._answers.extend(self.group.play(requests))
            except BaseException:
                # Ctrl-C, somewhere in an environment: these episodes cannot go on.
                failure = Failure("environment", "the step was interrupted")
                self._answers.extend(Answer(slot, problem=failure) for slot, _, _ in requests)
                raise
            return
        for request in requests:
            name = self._lane_of(request[0])
            lane = self._lanes.get(name)
            if lane is None:
                lane = self._lanes[name] = _Lane(self.group, self._done)
            self._under_way += 1
            lane.requests.put(request)

    def receive(self, timeout: float | None) -> list[Answer]:
        """Return answers that are there, or wait for some; see `ProcessBackend.receive`."""
        if self._under_way:
            with contextlib.suppress(queue.Empty):
                if not self._answers:
                    self._accept(self._done.get(timeout=timeout))
                while True:
                    self._accept(self._done.get_nowait())
        answers = list(self._answers)
        self._answers.clear()
        return answers

    def wake(self) -> None:
        """See `ProcessBackend.wake`."""
        if self._lanes:
            self._done.put(None)

    def control(self, operation: Operation, arguments: dict[int, Any]) -> dict[int, Any]:
        """See `EnvGroup.control`."""
        return self.group.control(operation, arguments)

    def close(self) -> None:
        """Drop what has not begun, wait for what has, and close the environments."""
        for lane in self._lanes.values():
            lane.tell_to_stop()
        for lane in self._lanes.values():
            lane.join()
        self.group.close()

    def _accept(self, done: Answer | BaseException | None) -> None:
        if done is None:
            return  # only to wake this thread
        self._under_way -= 1
        if isinstance(done, BaseException):
            raise done
        self._answers.append(done)

    def _lane_of(self, slot: int) -> Hashable | None:
        inner = self.group.envs[slot].unwrapped
        return inner.lane() if isinstance(inner, TextEnv) else None


class _Lane:
    """Two threads that play on a lane: it does one thing at a time, and the next shall be there."""

    def __init__(self, group: EnvGroup, done: _Done) -> None:
        self.requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._group = group
        self._done = done
        self._threads = [
            threading.Thread(target=self._work, name="eto-gym-lane", daemon=True) for _ in range(2)
        ]
        for thread in self._threads:
            thread.start()

    def tell_to_stop(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self.requests.get_nowait()
        for _ in self._threads:
            self.requests.put(None)

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (request := self.requests.get()) is not None:
            try:
                for answer in self._group.play([request]):
                    self._done.put(answer)
            except BaseException as err:  # raised again in the thread that receives
                self._done.put(err)
