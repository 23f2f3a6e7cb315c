"""`eto-gym show FILE`: print an episode in the terminal."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from eto_gym.cli.terminal import printable
from eto_gym.errors import EtoGymError
from eto_gym.trajectories import Trajectory
from eto_gym.trajectories.formats import ReadReport, read_demonstrations


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="file of trajectories (JSONL or a JSON list)"
    )
    parser.add_argument(
        "number",
        type=int,
        nargs="?",
        default=1,
        metavar="N",
        help="which episode of those chosen, from 1 (default: 1)",
    )
    parser.add_argument("--task", default=None, metavar="ID", help="only episodes of this task")
    parser.add_argument("--failed", action="store_true", help="only episodes without success")
    parser.add_argument("--list", action="store_true", help="one line per episode instead")


def run(args: argparse.Namespace) -> int:
    """Print the episode, or the list."""
    report = ReadReport()
    everything, _ = read_demonstrations(args.file, report=report)
    chosen = [
        item
        for item in everything
        if (args.task is None or item.task_id == args.task)
        and not (args.failed and (item.success or item.failed_to_run))
    ]
    if not chosen:
        raise EtoGymError(f"{args.file} holds {len(everything)} episodes, and none that was chosen")
    for line in report.lines():  # a record that was changed since it was written, say
        print(line, file=sys.stderr)
    if args.list:
        for number, item in enumerate(chosen, start=1):
            print(f"{number:>5}  {_headline(item)}")
        return 0
    if not 1 <= args.number <= len(chosen):
        raise EtoGymError(f"expected an episode in 1..{len(chosen)}, got {args.number}")
    print(f"[episode {args.number} of {len(chosen)} in {printable(str(args.file))}]")
    print("\n".join(episode_lines(chosen[args.number - 1])))
    return 0


def episode_lines(episode: Trajectory) -> Iterator[str]:
    """Yield an episode as text for a terminal, without control characters."""
    yield f"[{_headline(episode)}]"
    steps = iter(episode.steps)
    first_step = len([m for m in episode.messages if m.role == "assistant"]) - len(episode.steps)
    replies = 0
    for message in episode.messages:
        yield f"\n{message.role.upper()}"
        yield printable(message.content)
        if message.role != "assistant":
            continue
        replies += 1
        if replies > first_step and (step := next(steps, None)):
            action = "no action found" if step.action is None else f"action: {step.action}"
            yield printable(f"[{action}; reward {step.reward:g}]")
    if episode.steps and episode.steps[-1].observation:
        yield f"\nAT THE END\n{printable(episode.steps[-1].observation)}"


def _headline(episode: Trajectory) -> str:
    ending = episode.error if episode.failed_to_run else episode.outcome
    return printable(
        f"{episode.task_id} {episode.task_type}  {episode.policy}  sample {episode.sample}  "
        f"{'success' if episode.success else 'no success'}  reward {episode.reward:g}  "
        f"{episode.step_count} steps  {'error: ' if episode.failed_to_run else ''}{ending}"
    ).replace("\n", " ")
