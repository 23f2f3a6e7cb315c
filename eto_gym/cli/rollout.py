"""`eto-gym rollout ENV --policy P`: play episodes and store their trajectories.

The output is an append-only file: a run that was stopped, or that had errors, goes on where it
stopped when the same command is given again.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence

from eto_gym.cli.arguments import ENV_HELP, add_playing_arguments
from eto_gym.cli.playing import plan, play
from eto_gym.trajectories import PlayedTrajectory


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("env", metavar="ENV", help=ENV_HELP)
    add_playing_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Play; return 0 if every episode counts, 1 if not, 130 after an interrupt."""
    samples = 1 if args.samples is None else args.samples
    planned = plan(args, command="rollout", samples=samples)
    trajectories = play(planned, command="rollout", launcher=args.launcher)
    if trajectories is None:
        return 130
    print(summary(trajectories))
    print(f"Written to {planned.out}")
    return 0 if all(trajectory.scored for trajectory in trajectories) else 1


def summary(trajectories: Sequence[PlayedTrajectory]) -> str:
    """Word how the episodes went, in one line per task type and one for all."""
    rows = [("all", list(trajectories))]
    for task_type in sorted({t.task_type for t in trajectories}):
        rows.append((task_type or "?", [t for t in trajectories if t.task_type == task_type]))
    if len(rows) == 2:
        rows = rows[:1]
    lines = []
    for name, group in rows:
        scored = [t for t in group if t.scored]
        outcomes = Counter(t.outcome for t in group)
        rewards = sum(t.reward for t in scored) / len(scored) if scored else 0.0
        steps = sum(t.step_count for t in scored) / len(scored) if scored else 0.0
        lines.append(
            f"{name}: {len(group)} episodes, {sum(t.success for t in scored)} successful, "
            f"mean reward {rewards:.3f}, mean steps {steps:.1f}, "
            f"truncated {outcomes['truncated']}, errors {outcomes['error']}"
        )
    return "\n".join([*lines[1:], lines[0]])
