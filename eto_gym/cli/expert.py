"""`eto-gym expert BENCHMARK`: roll the scripted expert over a split and store its trajectories.

Any benchmark whose `TextEnv.make_expert` returns an expert can be used. The output is an
append-only file: a run that was interrupted, or that had errors, goes on where it stopped when the
same command is given again.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from eto_gym.cli.arguments import (
    add_env_arguments,
    add_task_arguments,
    choose_tasks,
    env_arguments,
    task_set_of,
)
from eto_gym.conversation import PromptStyle
from eto_gym.errors import EtoGymError
from eto_gym.registration import resolve_env_id
from eto_gym.trajectories import PlayedTrajectory, TrajectoryStore


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("benchmark", help="scienceworld, alfworld, webshop, or a registered id")
    add_env_arguments(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=None,
        help="JSONL file (default: runs/expert/BENCHMARK-SPLIT.jsonl)",
    )
    add_task_arguments(parser)
    parser.add_argument("--samples", type=int, default=1, help="episodes per task (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the episodes (default 0)")
    parser.add_argument(
        "--workers", type=int, default=1, help="processes (default 1); results do not depend on it"
    )
    parser.add_argument(
        "--slots", type=int, default=4, help="environments at the same time (default 4)"
    )
    parser.add_argument(
        "--prompt-style",
        choices=get_args(PromptStyle),
        default="one-shot",
        help="what precedes the first observation (default one-shot, as in the paper)",
    )


def run(args: argparse.Namespace) -> int:
    """Play the expert; return 0 if every episode could be played out."""
    from eto_gym.agents.rollout.collect import RolloutSpec, gather
    from eto_gym.agents.rollout.engine import plan_episodes
    from eto_gym.agents.scripted import ExpertPolicy

    for name in ("samples", "workers", "slots"):
        if getattr(args, name) < 1:
            raise EtoGymError(f"expected --{name} >= 1, got {getattr(args, name)}")
    env_id = resolve_env_id(args.benchmark)
    env_kwargs = env_arguments(args)
    tasks = choose_tasks(task_set_of(env_id, env_kwargs), args)
    out = args.out or default_out(env_id, tasks.split)
    spec = RolloutSpec(
        env_id,
        ExpertPolicy,
        env_kwargs=env_kwargs,
        prompt_style=args.prompt_style,
        slots=max(args.slots, args.workers),
        workers=args.workers,
    )
    episodes = plan_episodes(tasks.ids, samples=args.samples, seed=args.seed)
    trajectories = gather(
        spec, episodes, store=TrajectoryStore(out), progress=f"{env_id} {tasks.split}"
    )
    print(summary(trajectories))
    print(f"Written to {out}")
    return 1 if any(trajectory.failed_to_run for trajectory in trajectories) else 0


def default_out(env_id: str, split: str) -> Path:
    """Return the file that is used when none is named."""
    return Path("runs/expert") / f"{env_id.rpartition('/')[2].lower()}-{split}.jsonl"


def summary(trajectories: Sequence[PlayedTrajectory]) -> str:
    """Word how the episodes went, in one line per task type and one for all."""
    rows = [("all", list(trajectories))]
    for task_type in sorted({t.task_type for t in trajectories}):
        rows.append((task_type or "?", [t for t in trajectories if t.task_type == task_type]))
    if len(rows) == 2:
        rows = rows[:1]
    lines = []
    for name, group in rows:
        played = [t for t in group if not t.failed_to_run]
        outcomes = Counter(t.outcome for t in group)
        rewards = sum(t.reward for t in played) / len(played) if played else 0.0
        steps = sum(t.step_count for t in played) / len(played) if played else 0.0
        lines.append(
            f"{name}: {len(group)} episodes, {sum(t.success for t in played)} successful, "
            f"mean reward {rewards:.3f}, mean steps {steps:.1f}, "
            f"truncated {outcomes['truncated']}, errors {outcomes['error']}"
        )
    return "\n".join([*lines[1:], lines[0]])
