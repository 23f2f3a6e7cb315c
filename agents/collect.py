"""Collecting episodes: resume from a store, spread over processes, show progress."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, cast

import gymnasium as gym
from tqdm import tqdm

from eto_gym.agents.policy import Policy
from eto_gym.agents.rollout import Episode, Rollout
from eto_gym.conversation import PromptStyle
from eto_gym.errors import EtoGymError
from eto_gym.trajectories import Trajectory, TrajectoryStore

logger = logging.getLogger(__name__)

_ATTEMPTS = 3
"""How often a worker process is started for the same episodes before they count as errors."""


@dataclass(frozen=True)
class RolloutSpec:
    """Everything a process needs to play episodes.

    Attributes:
        env_id: Registered id.
        env_kwargs: Arguments of `gym.make`.
        make_policy: Builds the policy inside the process that uses it; must be picklable when
            `workers` is more than 1, as a `functools.partial` of a module's function is.
        prompt_style: What precedes the first observation; see `ConversationEnv`.
        slots: Environments that play at the same time, over all processes.
        workers: Processes. With 1 (the default) everything runs in this one.
    """

    env_id: str
    make_policy: Callable[[], Policy]
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    prompt_style: PromptStyle = "one-shot"
    slots: int = 64
    workers: int = 1

    def rollout(self) -> Rollout:
        """Build the policy and the engine in this process."""
        return Rollout(
            self.make_env,
            self.make_policy(),
            slots=max(1, self.slots // self.workers),
            prompt_style=self.prompt_style,
        )

    def make_env(self) -> gym.Env[str, str]:
        """Make one environment."""
        return gym.make(self.env_id, **self.env_kwargs)


def latest(trajectories: Iterable[Trajectory]) -> dict[tuple[str, int], Trajectory]:
    """Return the last trajectory of every episode; a retry follows the error that it replaces."""
    return {trajectory.key: trajectory for trajectory in trajectories}


def collect(
    spec: RolloutSpec,
    episodes: Sequence[Episode],
    *,
    store: TrajectoryStore | None = None,
    progress: str | None = None,
) -> list[Trajectory]:
    """Play the episodes and return their trajectories in the order of `episodes`.

    Args:
        spec: What plays, and where.
        episodes: What to play; keys must be unique.
        store: Trajectories are appended here as they finish. Episodes that it already holds are not
            played again, unless they ended in an error.
        progress: Label of a progress bar with the success rate so far; None shows no bar.
    """
    wanted = {episode.key for episode in episodes}
    if len(wanted) != len(episodes):
        raise ValueError("expected unique episodes, got some (task, sample) more than once")
    done = {
        key: trajectory
        for key, trajectory in latest(store.load() if store else ()).items()
        if key in wanted and not trajectory.failed_to_run
    }
    waiting = [episode for episode in episodes if episode.key not in done]
    wins = sum(trajectory.success for trajectory in done.values())
    bar = tqdm(
        total=len(episodes),
        initial=len(done),
        desc=progress,
        unit="ep",
        disable=progress is None,
        mininterval=0.5,
    )
    with bar:
        for trajectory in _play(spec, waiting):
            done[trajectory.key] = trajectory
            if store is not None:
                store.add(trajectory)
            wins += trajectory.success
            bar.set_postfix_str(f"success {wins / len(done):.3f}", refresh=False)
            bar.update()
    if store is not None:
        store.close()
    return [done[episode.key] for episode in episodes]


def _play(spec: RolloutSpec, waiting: Sequence[Episode]) -> Iterator[Trajectory]:
    if not waiting:
        return
    if spec.workers == 1:
        yield from spec.rollout().play(waiting)
        return
    # Interleaved shards hold about equal work, and a worker that dies costs only its own.
    shards = [list(waiting[i :: spec.workers]) for i in range(spec.workers)]
    workers = [_Worker(spec, shard) for shard in shards if shard]
    try:
        while busy := {worker.results: worker for worker in workers if worker.remaining}:
            for connection in wait(busy):
                yield from busy[cast("Connection", connection)].receive()
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """A process that plays a shard, and is started again if it dies.

    Each has a pipe of its own: a lock or a pipe that is shared would stay locked, or hold half a
    message, when a process is killed in the middle of writing.
    """

    def __init__(self, spec: RolloutSpec, shard: Sequence[Episode]) -> None:
        self.remaining = {episode.key: episode for episode in shard}
        self._spec = spec
        self._attempts = 0
        self._start()

    def _start(self) -> None:
        self._attempts += 1
        context = multiprocessing.get_context("spawn")
        self.results, sender = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_work, args=(self._spec, list(self.remaining.values()), sender), daemon=True
        )
        self._process.start()
        sender.close()  # so that the end of the process is the end of the pipe

    def receive(self) -> Iterator[Trajectory]:
        """Take one result; where the process died instead, restart it or give its episodes up."""
        try:
            item = self.results.recv()
        except (EOFError, OSError):
            yield from self._recover()
            return
        if isinstance(item, str):
            raise EtoGymError(f"a rollout process failed: {item}")
        self.remaining.pop(item.key, None)
        yield item

    def _recover(self) -> Iterator[Trajectory]:
        self._process.join()
        self.results.close()
        logger.warning("a rollout process died with exit code %s", self._process.exitcode)
        if self._attempts < _ATTEMPTS:
            self._start()
            return
        for episode in list(self.remaining.values()):
            del self.remaining[episode.key]
            yield Trajectory(
                task_id=episode.task_id,
                task_type="",
                messages=(),
                steps=(),
                outcome="error",
                reward=0.0,
                success=False,
                error="policy",
                sample=episode.sample,
                seed=episode.seed,
            )

    def stop(self) -> None:
        """End the process; one that has played all its episodes ends by itself."""
        if not self.remaining:
            self._process.join(timeout=10.0)
        if self._process.is_alive():
            self._process.terminate()
        self._process.join()


def _work(spec: RolloutSpec, shard: Sequence[Episode], results: Connection) -> None:
    """Play a shard in a child process; send the results, or the text of a fatal error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    # The processes share the cores; numeric libraries read this when they are first imported.
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // spec.workers))
    _follow_parent(os.getppid())
    try:
        rollout = spec.rollout()
    except Exception as err:  # what cannot be set up here cannot be set up in a fresh process
        results.send(f"{type(err).__name__}: {err}")
        raise
    try:
        for trajectory in rollout.play(shard):
            results.send(trajectory)
    except EtoGymError as err:
        results.send(str(err))


def _follow_parent(parent: int) -> None:
    """Exit soon after the parent is gone, even if it was killed outright."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
