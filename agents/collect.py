"""Collecting episodes: resume from a store, spread over processes, show progress."""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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
    context = multiprocessing.get_context("spawn")
    channel: Any = context.Queue()
    workers = [_Worker(context, spec, channel, index, shard) for index, shard in enumerate(shards)]
    try:
        while any(worker.remaining for worker in workers):
            try:
                index, item = channel.get(timeout=0.5)
            except queue.Empty:
                for worker in workers:
                    yield from worker.check()
                continue
            if isinstance(item, str):
                raise EtoGymError(f"a rollout process failed: {item}")
            workers[index].remaining.pop(item.key, None)
            yield item
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """A process that plays a shard, and is started again if it dies."""

    def __init__(
        self, context: Any, spec: RolloutSpec, channel: Any, index: int, shard: Sequence[Episode]
    ) -> None:
        self.remaining = {episode.key: episode for episode in shard}
        self._start_arguments = (context, spec, channel, index)
        self._attempts = 0
        self._start()

    def _start(self) -> None:
        context, spec, channel, index = self._start_arguments
        self._attempts += 1
        self._process = context.Process(
            target=_work,
            args=(spec, list(self.remaining.values()), channel, index),
            daemon=True,
        )
        self._process.start()

    def check(self) -> Iterator[Trajectory]:
        """Restart a process that died with episodes left; give up on them at the third death."""
        if self._process.is_alive() or not self.remaining:
            return
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
        """End the process if it still runs."""
        if self._process.is_alive():
            self._process.terminate()
        self._process.join()


def _work(spec: RolloutSpec, shard: Sequence[Episode], channel: Any, index: int) -> None:
    """Play a shard in a child process; results, or the text of a fatal error, go to the channel."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    # The processes share the cores; numeric libraries read this when they are first imported.
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // spec.workers))
    _follow_parent(os.getppid())
    try:
        rollout = spec.rollout()
    except Exception as err:  # what cannot be set up here cannot be set up in a fresh process
        channel.put((index, f"{type(err).__name__}: {err}"))
        raise
    try:
        for trajectory in rollout.play(shard):
            channel.put((index, trajectory))
    except EtoGymError as err:
        channel.put((index, str(err)))


def _follow_parent(parent: int) -> None:
    """Exit soon after the parent is gone, even if it was killed outright."""
    import threading
    import time

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
