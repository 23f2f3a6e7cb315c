"""Environments in worker processes, several in each, with one message per worker and turn."""

from __future__ import annotations

import contextlib
import itertools
import logging
import multiprocessing
import os
import pickle
import signal
import time
import weakref
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from eto_gym.errors import EngineError
from eto_gym.processes import Alarm, follow_parent
from eto_gym.vector.group import (
    Answer,
    Description,
    EnvGroup,
    EnvMaker,
    Failure,
    Operation,
    Request,
)

logger = logging.getLogger(__name__)

START_SECONDS = 300.0
"""Longest wait for a new worker to have made its environments."""
CLOSE_SECONDS = 10.0
"""Longest wait for a worker to close its environments."""
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
        context = multiprocessing.get_context("spawn")
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
        """Send a call."""
        try:
            self.connection.send((method, arguments))
        except OSError as err:
            raise WorkerLostError(self._obituary()) from err

    def ask_for(self, timeout: float | None) -> Any:
        """Wait for the answer to the call that was sent."""
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


class ProcessBackend:
    """Spreads the slots over worker processes, which are replaced when they die."""

    def __init__(
        self,
        make_env: EnvMaker,
        count: int,
        *,
        same_step: bool,
        workers: int,
        timeout: float | None,
    ) -> None:
        """Start the workers, and wait for all of them.

        Args:
            make_env: Makes one environment.
            count: Number of environments.
            same_step: See `EnvGroup`.
            workers: Number of processes.
            timeout: Seconds that a step or a reset may take; None sets no limit. What takes longer
                is noticed before twice the time is over.
        """
        self._timeout = timeout
        self._losses: list[tuple[Sequence[int], str]] = []
        self._answers: list[Answer] = []
        self._alarm = Alarm()
        self._ready: deque[Worker] = deque()  # they have answered, and wait to be heard
        edges = [count * i // workers for i in range(workers + 1)]
        self.workers: list[Worker] = []
        self._finalizer = weakref.finalize(self, _kill_all, self.workers, os.getpid())
        try:
            for first, last in itertools.pairwise(edges):
                self.workers.append(Worker(make_env, range(first, last), same_step=same_step))
            self._descriptions = [worker.ready() for worker in self.workers]
        except BaseException:
            self._finalizer()
            raise
        self._worker_of = [worker for worker in self.workers for _ in worker.slots]

    def describe(self) -> Description:
        """See `EnvGroup.describe`."""
        return self._descriptions[0]

    def refresh(self) -> None:
        """Notice workers that died while they had nothing to do."""
        for worker in self.workers:
            if worker.busy is None and worker.is_gone():
                self._lose(worker, WorkerLostError(worker._obituary()))

    def take_losses(self) -> list[tuple[Sequence[int], str]]:
        """Return the slots of workers that were replaced since the last call, and the reasons."""
        losses, self._losses = self._losses, []
        return losses

    def submit(self, requests: Sequence[Request]) -> None:
        """Hand requests to the workers; those of one that is busy follow in its next message."""
        shares: dict[int, list[Request]] = {}
        for request in requests:
            shares.setdefault(id(self._worker_of[request[0]]), []).append(request)
        for share in shares.values():
            worker = self._worker_of[share[0][0]]
            worker.waiting.extend(share)
            if worker.busy is None:
                self._send(worker)

    def receive(self, timeout: float | None) -> list[Answer]:
        """Return the answers that are there, or wait for those of one worker.

        They are those of one worker even where more have answered, so that it can go on while the
        caller deals with the next: workers that are served together would wait for each other.

        Args:
            timeout: Longest wait in seconds; None waits as long as it takes. The list is empty when
                the time is over, when nothing is under way, or after `wake`.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while not self._answers:
            if self._ready:
                self._take(self._ready.popleft())
                continue
            busy = {worker.connection: worker for worker in self.workers if worker.busy is not None}
            deadlines = [w.deadline for w in busy.values() if w.deadline is not None]
            patience = min([*deadlines, *([] if end is None else [end])], default=None)
            if not busy:
                break
            left = None if patience is None else max(0.0, patience - time.monotonic())
            woken = False
            for connection in wait([*busy, self._alarm.connection], left):
                assert isinstance(connection, Connection)
                if connection is self._alarm.connection:
                    self._alarm.stop()
                    woken = True
                else:
                    self._ready.append(busy[connection])
            for worker in busy.values():
                if (
                    self._timeout is not None
                    and worker not in self._ready
                    and worker.is_late(self._timeout)
                ):
                    reason = f"{worker.name} did not answer within {self._timeout:g} s"
                    self._lose(worker, WorkerTimeoutError(reason))
            over = end is not None and time.monotonic() >= end
            if (woken or over) and not self._ready:
                break
        answers, self._answers = self._answers, []
        return answers

    def wake(self) -> None:
        """Let `receive` return, or its next call; may be called in any thread."""
        self._alarm.ring()

    def control(self, operation: Operation, arguments: dict[int, Any]) -> dict[int, Any]:
        """See `EnvGroup.control`; nothing may be under way."""
        results: dict[int, Any] = {}
        for worker in self.workers:
            share = {slot: arguments[slot] for slot in worker.slots if slot in arguments}
            if share:
                try:
                    results.update(worker.ask("control", operation, share))
                except WorkerLostError as err:
                    self._lose(worker, err)
                    raise
        return {slot: results[slot] for slot in arguments}

    def close(self) -> None:
        """Stop the workers."""
        for worker in self.workers:
            worker.tell_to_stop()
        for worker in self.workers:
            worker.process.join(CLOSE_SECONDS)
        self._finalizer()
        self._alarm.close()

    def _send(self, worker: Worker) -> None:
        requests, worker.waiting = worker.waiting, []
        worker.busy = requests
        try:
            worker.ready()
            worker.send("play", requests)
            if self._timeout is not None:
                worker.start_clock(self._timeout)
        except WorkerLostError as err:
            self._lose(worker, err)
        except Exception as err:
            self._refuse(worker, err)
        except BaseException:
            self._lose(worker, WorkerLostError(f"{worker.name} was interrupted"))
            raise

    def _take(self, worker: Worker) -> None:
        """Receive the answers of a worker, and send it what waits for it."""
        try:
            answers = worker.ask_for(None)
        except WorkerLostError as err:
            self._lose(worker, err)
        except Exception as err:
            self._refuse(worker, err)
        except BaseException:
            # Ctrl-C, perhaps in the middle of a message: what follows could not be read.
            self._lose(worker, WorkerLostError(f"{worker.name} was interrupted"))
            raise
        else:
            self._answers.extend(map(Answer._make, answers))
            worker.deaths = 0
            worker.busy = None
        if worker.waiting and worker.busy is None:
            self._send(worker)

    def _refuse(self, worker: Worker, err: Exception) -> None:
        """Answer what a worker has to do with an error for the caller; the worker lives on."""
        owed, worker.busy = worker.busy or [], None
        self._answers.extend(Answer(slot, problem=err) for slot, _, _ in owed)

    def _lose(self, worker: Worker, err: WorkerLostError) -> None:
        """Replace a worker, and answer all that it owed with failures."""
        logger.warning("%s; its episodes are lost and it is replaced", err)
        owed = [*(worker.busy or ()), *worker.waiting]
        at_work = worker.playing
        for slot, _, _ in owed:
            kind = err.kind if slot == at_work else "worker"
            self._answers.append(Answer(slot, problem=Failure(kind, str(err), worker=True)))
        self._losses.append((worker.slots, str(err)))
        worker.replace()


def work(
    connection: Connection, place: Any, make_env: EnvMaker, slots: Sequence[int], same_step: bool
) -> None:
    """Be a worker: make the environments, then answer calls until told to stop.

    Args:
        connection: To the parent.
        place: A shared integer; tells the parent which request is being played, from 1.
        make_env: Makes one environment.
        slots: Which ones.
        same_step: See `EnvGroup`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to handle
    follow_parent()
    try:
        group = EnvGroup(make_env, slots, same_step=same_step)
    except Exception as err:
        connection.send((None, _portable(err)))
        return
    try:
        connection.send((group.describe(), None))
        # The end of the pipe means that the parent is gone.
        while (call := connection.recv()) is not None:
            method, arguments = call
            try:
                if method == "play":
                    result: Any = [_plain(answer) for answer in _play(group, arguments[0], place)]
                else:
                    result = getattr(group, method)(*arguments)
                reply: tuple[Any, Exception | None] = (result, None)
            except Exception as err:
                reply = (None, _portable(err))
            _send_reply(connection, reply)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    finally:
        group.close()


def _play(group: EnvGroup, requests: Sequence[Request], place: Any) -> list[Answer]:
    """Play one request after the other, and tell which one."""
    answers = []
    for number, request in enumerate(requests, start=1):
        place.value = number
        answers += group.play([request])
    place.value = 0
    return answers


def _send_reply(connection: Connection, reply: tuple[Any, Exception | None]) -> None:
    try:
        connection.send(reply)
    except (pickle.PicklingError, TypeError, AttributeError) as err:
        connection.send((None, EngineError(f"the answer cannot leave the worker process: {err}")))


def _plain(answer: Answer) -> tuple[Any, ...]:
    """Return an answer as a plain tuple, which is faster to send, fit for the way."""
    if isinstance(answer.problem, Exception):
        answer = answer._replace(problem=_portable(answer.problem))
    return tuple(answer)


def _portable(err: Exception) -> Exception:
    """Return the error, or its text where it would not survive the way to the parent."""
    try:
        if type(pickle.loads(pickle.dumps(err))) is type(err):  # noqa: S301
            return err
    except Exception:
        logger.debug("an error cannot be pickled", exc_info=True)
    return EngineError(f"{type(err).__name__}: {err}")


def _kill_all(workers: list[Worker], owner: int) -> None:
    if os.getpid() == owner:
        for worker in workers:
            worker.kill()
