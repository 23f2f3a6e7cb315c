"""Environments in this process, which share everything that can be shared."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from eto_gym.env import TextEnv
from eto_gym.vector.group import (
    Answer,
    Description,
    EnvGroup,
    EnvMaker,
    Failure,
    Operation,
    Request,
)


class LocalBackend:
    """Plays in the calling thread; or, where environments wait for lanes, a thread per lane."""

    def __init__(self, make_env: EnvMaker, count: int, *, same_step: bool) -> None:
        """Make the environments; see `EnvGroup`."""
        self.group = EnvGroup(make_env, range(count), same_step=same_step)
        self._answers: deque[Answer] = deque()
        self._running: set[Future[list[Answer]]] = set()
        self._threads: ThreadPoolExecutor | None = None
        inner = self.group.envs[0].unwrapped
        if isinstance(inner, TextEnv) and inner.lane() is not None:
            # Threads are started as they are needed, so this is no more than an upper limit.
            self._threads = ThreadPoolExecutor(count, thread_name_prefix="eto-gym-lane")

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
        if self._threads is None:
            try:
                self._answers.extend(self.group.play(requests))
            except BaseException:
                # Ctrl-C, somewhere in an environment: these episodes cannot go on.
                failure = Failure("environment", "the step was interrupted")
                self._answers.extend(Answer(slot, problem=failure) for slot, _, _ in requests)
                raise
            return
        lanes: dict[Hashable, list[Request]] = {}
        for request in requests:
            inner = self.group.envs[request[0]].unwrapped
            lane = inner.lane() if isinstance(inner, TextEnv) else None
            lanes.setdefault(lane, []).append(request)
        for share in lanes.values():
            self._running.add(self._threads.submit(self.group.play, share))

    def receive(self, timeout: float | None) -> list[Answer]:
        """Return answers that are there, or wait for some; see `ProcessBackend.receive`."""
        if self._running:
            patience = 0.0 if self._answers else timeout
            done, self._running = wait(self._running, patience, return_when=FIRST_COMPLETED)
            for future in done:
                self._answers.extend(future.result())
        answers = list(self._answers)
        self._answers.clear()
        return answers

    def control(self, operation: Operation, arguments: dict[int, Any]) -> dict[int, Any]:
        """See `EnvGroup.control`."""
        return self.group.control(operation, arguments)

    def close(self) -> None:
        """Close the environments."""
        if self._threads is not None:
            self._threads.shutdown(wait=True)
        self.group.close()
