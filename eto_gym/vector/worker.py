"""The parent's side of a worker process: the connection to it, its clock, its end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any

from eto_gym.errors import EngineError
from eto_gym.processes import FollowingContext
from eto_gym.vector.group import Description, EnvMaker, Request
from eto_gym.vector.worker_process import work

START_SECONDS = 300.0
"""Longest wait for a new worker to have made its environments."""
MAX_DEATHS = 5
"""Deaths in a row, without an environment that played, after which a worker is not replaced."""


class WorkerLostError(EngineError):
    """A worker died, or did not answer in time."""

    kind = "environment"


class WorkerTimeoutError(WorkerLostError):
    """A worker did not answer in time."""

    kind = "timeout"


class Worker:
    """One worker process and the connection to it; at most one message is on its way at a time."""

    def __init__(self, make_env: EnvMaker, slots: Sequence[int], *, same_step: bool) -> None:
        """Start the process; `ready` waits for it."""
        self.slots = tuple(slots)
        self._setup = (make_env, self.slots, same_step)
        self.deaths = 0
        self._start()

    def _start(self) -> None:
        # A spawned process inherits neither locks nor engines, and none of the other connections.
        context = FollowingContext()
        self.connection, theirs = context.Pipe()
        self._place = context.RawValue("l", 0)
        self.process = context.Process(
            target=work,
            args=(theirs, self._place, *self._setup),
            name=f"eto-gym-{self.slots[0]}",
            daemon=True,
        )
        self.process.start()
        theirs.close()
        self.busy: list[Request] | None = None
        self.waiting: list[Request] = []
        self.deadline: float | None = None
        self._seen = 1
        self._description: Description | None = None

    def ready(self) -> Description:
        """Wait until the environments are made, and describe them.

        Raises:
            WorkerLostError: The process died.
            Exception: Whatever making the environments raised.
        """
        if self._description is None:
            self._description = self.ask_for(START_SECONDS)
        return self._description

    def is_gone(self) -> bool:
        """Tell whether an idle worker has died: it has nothing else to say."""
        return self._description is not None and self.connection.poll()

    @property
    def playing(self) -> int | None:
        """The environment that is at work, if one is; of a dead worker, the one that was."""
        place = self._place.value
        return self.busy[place - 1][0] if self.busy and place else None

    def is_late(self, timeout: float) -> bool:
        """Tell whether a step is overdue; where another one began meanwhile, wait for that."""
        if self.deadline is None or time.monotonic() < self.deadline or self.connection.poll():
            return False
        seen, self._seen = self._seen, self._place.value
        if seen == self._seen:
            return True
        self.deadline = time.monotonic() + timeout
        return False

    def start_clock(self, timeout: float) -> None:
        """Note when the first step of a message that was just sent is overdue."""
        self.deadline = time.monotonic() + timeout
        self._seen = 1

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of the worker's group and wait for the result, or raise what it raised."""
        self.ready()
        self.send(method, *arguments)
        return self.ask_for(None)

    def send(self, method: str, *arguments: Any) -> None:
        """Send a call.

        Raises:
            WorkerLostError: The process is gone.
        """
        try:
            self.connection.send((method, arguments))
        except OSError as err:
            raise WorkerLostError(self._obituary()) from err

    def ask_for(self, timeout: float | None) -> Any:
        """Wait for the answer to the call that was sent, `timeout` seconds at most.

        Raises:
            WorkerLostError: The process is gone.
            WorkerTimeoutError: The time is over.
        """
        try:
            if timeout is not None and not self.connection.poll(timeout):
                raise WorkerTimeoutError(f"{self.name} did not answer within {timeout:g} s")
            result, error = self.connection.recv()
        except (EOFError, OSError) as err:
            raise WorkerLostError(self._obituary()) from err
        if error is not None:
            raise error
        return result

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"worker process {self.process.pid} (environments {self.slots[0]}-{self.slots[-1]})"

    def replace(self) -> None:
        """Start another process in its place.

        Raises:
            EngineError: Too many have died in a row.
        """
        # One that died of a step would not die of another: it is alive to be told of.
        self.deaths = 0 if self.playing is not None else self.deaths + 1
        self.kill()
        self.busy, self.waiting = None, []
        if self.deaths >= MAX_DEATHS:
            raise EngineError(f"{self.name} and {self.deaths - 1} before it died one after another")
        self._start()

    def kill(self) -> None:
        """End the process at once."""
        self.connection.close()
        self.process.kill()
        self.process.join()

    def tell_to_stop(self) -> None:
        """Let an idle process close its environments and end; end a busy one at once."""
        if self.busy is not None:
            self.process.kill()
        with contextlib.suppress(OSError):
            self.connection.send(None)

    def _obituary(self) -> str:
        self.process.join(1.0)
        return f"{self.name} died (exit code {self.process.exitcode})"
