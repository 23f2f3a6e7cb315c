"""Rejection sampling: chooses which of the agent's own episodes are imitated."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from eto_gym.trainers.settings.data import RejectionSettings
from eto_gym.trajectories import Trajectory


@dataclass(slots=True)
class RejectionReport:
    """What became of every episode that was offered.

    Attributes:
        episodes: Episodes that were offered.
        errors: Of these, those that are not scored.
        failures: Those that did not solve their task.
        duplicates: Successes that take the same actions as a better one of the same task.
        over_limit: Successes beyond `max_per_task`.
        kept: Those that are left.
        tasks: Tasks among those that are left.
    """

    episodes: int = 0
    errors: int = 0
    failures: int = 0
    duplicates: int = 0
    over_limit: int = 0
    kept: int = 0
    tasks: int = 0


def keep_best(
    trajectories: Iterable[Trajectory], settings: RejectionSettings | None = None
) -> tuple[list[Trajectory], RejectionReport]:
    """Keep the best distinct successes of each task.

    Two episodes are the same if they take the same actions; how their thoughts are worded does not
    matter. Tasks stay in the order in which they first appear.
    """
    settings = settings or RejectionSettings()
    report = RejectionReport()
    successes: dict[str, list[Trajectory]] = defaultdict(list)
    for trajectory in trajectories:
        report.episodes += 1
        if not trajectory.scored:
            report.errors += 1
        elif not trajectory.success:
            report.failures += 1
        else:
            successes[trajectory.task_id].append(trajectory)
    kept: list[Trajectory] = []
    for candidates in successes.values():
        distinct: dict[tuple[str | None, ...], Trajectory] = {}
        for trajectory in sorted(candidates, key=lambda t: (-t.reward, len(t.steps))):
            distinct.setdefault(tuple(step.action for step in trajectory.steps), trajectory)
        report.duplicates += len(candidates) - len(distinct)
        best = list(distinct.values())[: settings.max_per_task or None]
        report.over_limit += len(distinct) - len(best)
        kept += best
    report.kept = len(kept)
    report.tasks = len(successes)
    return kept, report
