"""`eto-gym rollout ENV --policy P`: play episodes and store their trajectories.

The output is an append-only file: a run that was stopped, or that had errors, goes on where it
stopped when the same command is given again.
"""

from __future__ import annotations

import argparse

from eto_gym.cli.expert import summary
from eto_gym.cli.playing import add_playing_arguments, plan, play


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("env", help="scienceworld, alfworld, webshop, or a registered id")
    add_playing_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Play; return 0 if every episode could be played out, 1 if not, 130 after an interrupt."""
    samples = 1 if args.samples is None else args.samples
    planned = plan(args, command="rollout", samples=samples)
    trajectories = play(planned, command="rollout", launcher=args.launcher)
    if trajectories is None:
        return 130
    print(summary(trajectories))
    print(f"Written to {planned.out}")
    return 1 if any(trajectory.failed_to_run for trajectory in trajectories) else 0
