"""The launcher of one machine: this process, or several of it."""

from __future__ import annotations

import abc
import contextlib
import logging
import os
import queue
import signal
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Protocol, Self, cast

from eto_gym.agents.rollout.engine import Episode
from eto_gym.agents.rollout.spec import RolloutSpec, failed_episode
from eto_gym.errors import EtoGymError
from eto_gym.processes import FollowingContext, follow_parent, leave_group
from eto_gym.trajectories import Trajectory
from eto_gym.trajectories.lines import PlayedTrajectory, encode

logger = logging.getLogger(__name__)

_AHEAD = 16
"""Episodes that a worker asks for at a time, before it has begun the last half of those it has."""

_FRUITLESS = 3
"""How often in a row a worker, or the one in its place, may die before it asks for an episode."""


class LocalLauncher:
    """Plays in this process, or in `spec.workers` processes of this machine.

    A process asks for a few episodes whenever it is about to run out of them, so that none has
    nothing to do before the others. One that dies is replaced, and what it had is played again.
    """

    def __init__(self, *, always_spawn: bool = False) -> None:
        """Choose where to play.

        Args:
            always_spawn: Play in another process even if there is one only. Off by default, since a
                single process gains nothing from it; it is what more of them compare with.
        """
        self._always_spawn = always_spawn

    def play(
        self, spec: RolloutSpec, episodes: Sequence[Episode]
    ) -> Generator[PlayedTrajectory, None, None]:
        """Play the episodes; see `Launcher.play`."""
        if not episodes:
            return
        if spec.workers == 1 and not self._always_spawn:
            with contextlib.closing(spec.rollout()) as rollout:
                yield from rollout.play(episodes)
            return
        pool = _ProcessPool(spec, episodes)
        try:
            yield from pool.trajectories()
        finally:
            pool.stop()


Message = PlayedTrajectory | str | int
"""What a worker says: a trajectory, the text of an error that ends the run, or how many episodes it
would like to be handed."""


class Worker(Protocol):
    """A process somewhere that plays what it is handed.

    Attributes:
        alone: Whether it plays episodes on their last attempt, one at a time.
        playing: The episodes that it was handed and has not returned, begun or not.
    """

    alone: bool
    playing: dict[tuple[str, int], Episode]

    @property
    def finished(self) -> bool:
        """Whether it was told that there is no more, and has played all that there was."""
        ...

    def receive(self) -> Sequence[Message]:
        """Return its next messages; raises EOFError or OSError when the process has ended."""
        ...

    def hand(self, episodes: Sequence[Episode]) -> None:
        """Give it episodes, as it asked for; none: there is no other."""
        ...

    def stop(self) -> str:
        """End it, and return how it ended."""
        ...


class WorkerPool(abc.ABC):
    """The workers and the episodes that they have not played yet."""

    def __init__(self, spec: RolloutSpec, episodes: Sequence[Episode]) -> None:
        self.spec = spec
        self._waiting = deque(episodes)
        # Episodes on their last attempt are played one at a time, so that one that kills its
        # process each time does not take others with it.
        self._suspects: deque[Episode] = deque()
        self._losses: Counter[tuple[str, int]] = Counter()
        self._left = len(episodes)
        # Of those that have asked for no episode yet: how many before them, in their place, had not
        # either when they died. Workers that die together, with their machine, are no sign that
        # none can play.
        self._barren: dict[Worker, int] = {}
        self._workers: list[Worker] = []

    @abc.abstractmethod
    def new_worker(self, *, alone: bool) -> Worker:
        """Start a worker."""

    @abc.abstractmethod
    def wait(self, workers: Sequence[Worker]) -> Sequence[Worker]:
        """Wait until messages of a worker, or its end, can be received; return such workers."""

    def trajectories(self) -> Iterator[PlayedTrajectory]:
        """Play until every episode has its trajectory."""
        for _ in range(min(self.spec.workers, self._left)):
            self._start(barren=0)
        while self._left:
            for ready in self.wait(self._workers):
                for trajectory in self._receive(ready):
                    self._left -= 1
                    yield trajectory

    def stop(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.stop()

    def _start(self, *, barren: int) -> None:
        worker = self.new_worker(alone=not self._waiting)
        self._workers.append(worker)
        self._barren[worker] = barren

    def _receive(self, worker: Worker) -> Iterator[PlayedTrajectory]:
        """Take messages; where the process has ended instead, see to what it leaves.

        Raises:
            EtoGymError: It says so, after what it has played came out.
        """
        try:
            messages = worker.receive()
        except (EOFError, OSError):
            yield from self._bury(worker)
            return
        trajectories: list[PlayedTrajectory] = []
        failure: str | None = None
        for message in messages:
            if isinstance(message, str):
                failure = message
            elif isinstance(message, int):
                self._barren.pop(worker, None)
                worker.hand(self._next_episodes(message, alone=worker.alone))
            else:
                del worker.playing[message.key]
                trajectories.append(message)
        yield from trajectories
        if failure is not None:
            raise EtoGymError(f"a rollout process failed: {failure}")

    def _next_episodes(self, wanted: int, *, alone: bool) -> Sequence[Episode]:
        """Take episodes from those that wait, fewer than wanted where soon there are none left."""
        source = self._suspects if alone else self._waiting
        fair = -(-len(source) // (2 * self.spec.workers))
        return [source.popleft() for _ in range(min(wanted, fair))]

    def _bury(self, worker: Worker) -> Sequence[PlayedTrajectory]:
        self._workers.remove(worker)
        end = worker.stop()
        asked = worker not in self._barren
        barren = 0 if asked else self._barren.pop(worker) + 1
        failed = []
        if not worker.finished:
            logger.warning(
                "a rollout process died (%s) with %d episodes",
                end,
                len(worker.playing),
            )
            if barren >= _FRUITLESS:
                raise EtoGymError(
                    f"{_FRUITLESS} rollout processes in a row died before they could play; the "
                    f"last one: {end}"
                )
            failed = [t for e in worker.playing.values() if (t := self._lost(e)) is not None]
        in_hand = any(other.alone for other in self._workers)
        if self._waiting or (self._suspects and not in_hand):
            self._start(barren=barren)
        return failed

    def _lost(self, episode: Episode) -> Trajectory | None:
        """Play a lost episode again, or give it up."""
        retry = self.spec.retry
        self._losses[episode.key] += 1
        attempts_left = retry.attempts - self._losses[episode.key]
        if "worker" not in retry.kinds or attempts_left <= 0:
            return failed_episode(episode, "worker")
        (self._suspects if attempts_left == 1 else self._waiting).append(episode)
        return None


class _ProcessPool(WorkerPool):
    """Workers that are processes of this machine."""

    def new_worker(self, *, alone: bool) -> Worker:
        return _Process(self.spec, alone=alone)

    def wait(self, workers: Sequence[Worker]) -> Sequence[Worker]:
        by_connection = {cast("_Process", worker).connection: worker for worker in workers}
        return [by_connection[cast("Connection", ready)] for ready in wait(by_connection)]


class _Process:
    """A process that plays what it is handed; those that have nothing to do end by themselves.

    Each has a pipe of its own: a lock or a pipe that is shared would stay locked, or hold half a
    message, when a process is killed in the middle of writing.
    """

    def __init__(self, spec: RolloutSpec, *, alone: bool) -> None:
        self.alone = alone
        self.playing: dict[tuple[str, int], Episode] = {}
        self._told_to_end = False
        self._loaded = False  # whether it has said anything
        context = FollowingContext()
        self.connection, child = context.Pipe()
        slots = 1 if alone else None
        # Not a daemon, which could have no processes of its own for its environments.
        self._process = context.Process(target=_work, args=(spec, slots, child), daemon=False)
        self._process.start()
        self._finalizer = weakref.finalize(self, _end, self._process, os.getpid())
        child.close()  # so that the end of the process is the end of the pipe

    @property
    def finished(self) -> bool:
        """Whether the process has played all that there was."""
        return self._told_to_end and not self.playing

    def receive(self) -> Sequence[Message]:
        """Read the next messages from the pipe."""
        messages: Sequence[Message] = self.connection.recv()
        self._loaded = True
        return messages

    def hand(self, episodes: Sequence[Episode]) -> None:
        """Give the process episodes; none: there is no other."""
        self._told_to_end = not episodes
        self.playing.update((episode.key, episode) for episode in episodes)
        with contextlib.suppress(OSError):  # it has died, as the next message will tell
            self.connection.send(episodes)

    def stop(self) -> str:
        """End the process, and return its exit code.

        One that has nothing left to play may close what it holds; one that has not even loaded it,
        which can take minutes, holds nothing that matters.
        """
        if self._process.is_alive() and self._loaded and not self.playing:
            self.hand(())  # it may be asking
            self._process.join(timeout=10.0)
        if self._process.is_alive():
            self._process.terminate()
        self._process.join()
        self._finalizer.detach()
        self.connection.close()
        return f"exit code {self._process.exitcode}"


def _end(process: BaseProcess, owner: int) -> None:
    """End a process that nobody waits for any more, or else the interpreter would at its end."""
    if os.getpid() == owner:
        process.terminate()


def _work(spec: RolloutSpec, slots: int | None, connection: Connection) -> None:
    """Play in a child process; send the results, or the text of a fatal error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    # The processes share the cores, also with the workers of processes that were launched together
    # with the parent; numeric libraries read this when they are first imported.
    processes = spec.workers * int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // processes))
    leave_group()
    follow_parent()
    with _Mailbox(connection) as mailbox:
        play_requested(spec, slots, mailbox.send, mailbox.receive)


class _Mailbox:
    """Sends and receives in threads, so that play never waits for a process that reads slowly.

    What is said while an earlier message is being sent goes together in the next one. As both ends
    read all the time, neither can wait for ever for the other to make room in the pipe.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._outgoing: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._incoming: queue.SimpleQueue[Sequence[Episode]] = queue.SimpleQueue()
        self._sender = threading.Thread(target=self._send_all, daemon=True)

    def __enter__(self) -> Self:
        self._sender.start()
        threading.Thread(target=self._receive_all, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Wait until everything is sent."""
        self._outgoing.put(None)
        self._sender.join()

    def send(self, message: Message) -> None:
        """Send a message, soon."""
        self._outgoing.put(message)

    def receive(self) -> Sequence[Episode]:
        """Wait for episodes."""
        return self._incoming.get()

    def _send_all(self) -> None:
        try:
            while True:
                messages = [self._outgoing.get()]
                while not self._outgoing.empty():
                    messages.append(self._outgoing.get())
                end = messages[-1] is None
                self._connection.send(messages[:-1] if end else messages)
                if end:
                    return
        except OSError:
            return  # the parent is gone, and so will be this process
        except Exception:  # without this thread the parent would wait for ever
            logger.exception("what was played cannot be sent")
            os._exit(1)

    def _receive_all(self) -> None:
        # The pipe ends with the parent, and then this process ends, too.
        with contextlib.suppress(EOFError, OSError):
            while True:
                self._incoming.put(self._connection.recv())


def play_requested(
    spec: RolloutSpec,
    slots: int | None,
    send: Callable[[Message], None],
    receive: Callable[[], Sequence[Episode]],
) -> None:
    """Be a worker: ask for episodes until there is no other, play them, and send what came of them.

    Args:
        spec: What plays.
        slots: Environments; None takes a worker's share.
        send: Sends a message.
        receive: Waits for the answer to a message that asked for episodes.
    """
    # What is asked for ahead is lost with the worker, too; it must then have another attempt.
    ahead = _AHEAD if slots is None and spec.retry.attempts > 1 else 1
    ahead = ahead if "worker" in spec.retry.kinds else 1

    def requested() -> Iterator[Episode]:
        here: deque[Episode] = deque()
        asked = False
        while True:
            if not asked and len(here) <= ahead // 2 and (ahead > 1 or not here):
                send(ahead)
                asked = True
            if not here:
                here.extend(receive())
                asked = False
                if not here:
                    return
                continue
            yield here.popleft()

    try:
        rollout = spec.rollout(slots=slots)
    except EtoGymError as err:
        send(str(err))
        return
    except Exception as err:  # what cannot be set up here cannot be set up in a fresh process
        send(f"{type(err).__name__}: {err}")
        raise
    try:
        with contextlib.closing(rollout):
            for trajectory in rollout.play(requested()):
                send(encode(trajectory))
    except EtoGymError as err:
        send(str(err))
