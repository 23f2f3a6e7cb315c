"""Environments in worker processes, several in each, with one message per worker and turn."""

from __future__ import annotations

import itertools
import logging
import os
import time
import weakref
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from eto_gym.processes import Alarm
from eto_gym.vector.group import (
    Answer,
    Description,
    EnvMaker,
    Failure,
    NotCopied,
    Operation,
    Request,
)
from eto_gym.vector.worker import Worker, WorkerLostError, WorkerTimeoutError

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 10.0
"""Longest wait for a worker to close its environments."""


class ProcessBackend(NotCopied):
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
                except Exception:
                    raise  # it is the environment's, and has been answered
                except BaseException:
                    # Ctrl-C: the answer that is still to come would be taken for the next one.
                    self._lose(worker, WorkerLostError(f"{worker.name} was interrupted"))
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


def _kill_all(workers: list[Worker], owner: int) -> None:
    if os.getpid() == owner:
        for worker in workers:
            worker.kill()
