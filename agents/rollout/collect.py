"""Collects episodes: resumes from a store, plays what is missing, shows progress."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Self

from eto_gym.agents.rollout.engine import Episode
from eto_gym.agents.rollout.launchers import Launcher, get_launcher
from eto_gym.agents.rollout.spec import RolloutSpec
from eto_gym.errors import EtoGymError
from eto_gym.progress import Progress
from eto_gym.registration import NAMESPACE
from eto_gym.trajectories import PlayedTrajectory, Trajectory, TrajectoryStore
from eto_gym.trajectories.lines import decode

__all__ = ["RolloutSpec", "collect", "gather", "latest", "played_out"]

logger = logging.getLogger(__name__)


def latest(trajectories: Iterable[Trajectory]) -> dict[tuple[str, int], Trajectory]:
    """Return the last trajectory of every episode; a retry follows the error that it replaces."""
    return {trajectory.key: trajectory for trajectory in trajectories}


def collect(
    spec: RolloutSpec,
    episodes: Sequence[Episode],
    *,
    store: TrajectoryStore | None = None,
    progress: str | None = None,
    launcher: Launcher | None = None,
) -> list[Trajectory]:
    """Play the episodes and return their trajectories in the order of `episodes`.

    Args:
        spec: What plays, and where.
        episodes: What to play; keys must be unique.
        store: Trajectories are appended here as they finish. Episodes that it already holds are not
            played again, unless they ended in an error or are not as planned (see `played_out`).
            Whatever stops the run, an interrupt or a
            full disk, leaves a valid file, from which the same call goes on.
        progress: Label of the progress (see `eto_gym.progress`), which counts successes, failures,
            what is still open, errors, and episodes per hour; None shows none.
        launcher: Where to play; None takes `get_launcher("local")`.

    Raises:
        EtoGymError: The run cannot go on, or a trajectory could not be written.
    """
    gathered = gather(spec, episodes, store=store, progress=progress, launcher=launcher)
    return [decode(trajectory) for trajectory in gathered]


def gather(
    spec: RolloutSpec,
    episodes: Sequence[Episode],
    *,
    store: TrajectoryStore | None = None,
    progress: str | None = None,
    launcher: Launcher | None = None,
) -> list[PlayedTrajectory]:
    """Do as `collect` does, but leave the trajectories that other processes played encoded.

    They tell how the episodes went. Decoding them all takes this process longer than storing them,
    and keeps those that play waiting at the end; who wants few of them, or none, saves that.

    Raises:
        EtoGymError: The run cannot go on, or a trajectory could not be written.
        ValueError: An episode is asked for twice.
    """
    wanted = {episode.key for episode in episodes}
    if len(wanted) != len(episodes):
        raise ValueError("expected unique episodes, got some (task, sample) more than once")
    stored = latest(store.load() if store else ())
    done: dict[tuple[str, int], PlayedTrajectory] = {**played_out(spec, episodes, stored)}
    waiting = [episode for episode in episodes if episode.key not in done]
    playing = (launcher or get_launcher("local")).play(spec, waiting)
    shown = _Progress(progress, total=len(episodes), done=done.values())
    try:
        with shown, contextlib.closing(playing):
            for trajectory in playing:
                if store is not None:
                    with _disk_errors(store, len(done), len(episodes)):
                        store.add(trajectory)
                done[trajectory.key] = trajectory
                shown.add(trajectory)
    finally:
        if store is not None:
            with _disk_errors(store, len(done), len(episodes)):
                store.close()
    return [done[episode.key] for episode in episodes]


def played_out(
    spec: RolloutSpec,
    episodes: Sequence[Episode],
    stored: Mapping[tuple[str, int], Trajectory],
) -> dict[tuple[str, int], Trajectory]:
    """Return what need not be played again: stored, with a score, and what was planned.

    A record of another seed, benchmark or policy, or one that contradicts itself, is not what this
    run would have stored. It is warned of, and its episode is played again; the file keeps it.
    """
    done = {}
    for episode in episodes:
        trajectory = stored.get(episode.key)
        if trajectory is None or not trajectory.scored:
            continue
        if reason := _not_planned(spec, episode, trajectory):
            logger.warning(
                "%s#%d is played again: its record has %s", episode.task_id, episode.sample, reason
            )
            continue
        done[episode.key] = trajectory
    return done


def _not_planned(spec: RolloutSpec, episode: Episode, trajectory: Trajectory) -> str | None:
    """Return what shows that a record is not what the plan would have led to, if anything does.

    Only what every record of the plan must have is looked at: to play an episode again that was
    stored rightly costs a user hours.
    """
    if trajectory.seed != episode.seed:
        return f"the seed {trajectory.seed}, and the plan {episode.seed}"
    if spec.policy_name is not None and trajectory.policy != spec.policy_name:
        return f"the policy {trajectory.policy!r:.60}, and the plan {spec.policy_name!r}"
    # The suite's own cards name the benchmark as its id does; of others nothing is known.
    benchmark = trajectory.env.get("benchmark")
    ours = spec.env_id.startswith(f"{NAMESPACE}/")
    if ours and not (isinstance(benchmark, str) and benchmark.lower() in spec.env_id.lower()):
        return f"the benchmark {benchmark!r:.60}, and the plan {spec.env_id}"
    rewards = [step.reward for step in trajectory.steps]
    # A run adds them up one by one, so the tolerance goes with their size.
    tolerance = 1e-6 * (1 + sum(map(abs, rewards)))
    if not abs(sum(rewards) - trajectory.reward) <= tolerance:
        return f"the reward {trajectory.reward:g}, and its steps {sum(rewards):g} together"
    replies = sum(message.role == "assistant" for message in trajectory.messages)
    if replies < trajectory.step_count:
        return f"{trajectory.step_count} steps, and {replies} replies"
    return None


@contextlib.contextmanager
def _disk_errors(store: TrajectoryStore, done: int, total: int) -> Iterator[None]:
    """Word what goes wrong with the disk."""
    try:
        yield
    except OSError as err:
        raise EtoGymError(
            f"could not write to {store.path}: {err.strerror or err}. The file is valid and holds "
            f"{done} of {total} episodes; when the cause is removed, the same run goes on from "
            "there."
        ) from err


class _Progress:
    """Progress with the success rate, the errors, and episodes per hour of this run."""

    def __init__(self, label: str | None, *, total: int, done: Iterable[PlayedTrajectory]) -> None:
        self._total = total
        self._over = self._scored = self._wins = self._played = 0
        self._errors: Counter[str] = Counter()
        for trajectory in done:
            self._count(trajectory)
        self._begun = time.monotonic()
        self._shown = Progress(label, total=total, done=self._over, unit="episode")
        self._shown.update(self._over, self._text())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.close()

    def add(self, trajectory: PlayedTrajectory) -> None:
        """Count one more."""
        self._played += 1
        self._count(trajectory)
        self._shown.update(self._over, self._text())

    def _count(self, trajectory: PlayedTrajectory) -> None:
        self._over += 1
        if trajectory.error is not None:
            self._errors[trajectory.error] += 1
        if trajectory.scored:
            self._scored += 1
            self._wins += trajectory.success

    def _text(self) -> str:
        parts = [self._success()]
        parts += [f"{kind} errors {count}" for kind, count in sorted(self._errors.items())]
        hours = (time.monotonic() - self._begun) / 3600
        return ", ".join([*parts, f"{self._played / max(hours, 1e-9):,.0f} ep/h"])

    def _success(self) -> str:
        """Say how many succeeded; a rate only when all are over, since successes end first."""
        if left := self._total - self._over:
            return f"success {self._wins}, failure {self._scored - self._wins}, open {left}"
        return f"success {self._wins / self._scored:.3f}" if self._scored else "success -"
