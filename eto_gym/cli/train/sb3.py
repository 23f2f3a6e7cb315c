"""`eto-gym train sb3`: PPO or DQN of Stable-Baselines3 on a text environment."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eto_gym.cli.train.options import Command, printed, read_command
from eto_gym.registration import check_arguments, resolve_env_id
from eto_gym.trainers.sb3.settings import SB3Settings


def sb3_command() -> Command:
    """Return what the command takes; it has its names in common with the others."""
    return Command(
        method="sb3",
        description="Train PPO or DQN of Stable-Baselines3 to choose among the admissible actions, "
        "and evaluate it on held-out tasks beside random admissible actions.",
        settings=SB3Settings,
        flags=lambda parser: parser.add_argument(
            "--out", default="", metavar="FOLDER", help="run folder, new or empty"
        ),
        names={
            "split": "train-split",
            "num_envs": "slots",
            "eval_episodes": "eval-tasks",
            "history": "history-actions",
        },
        renamed={
            "--split": "--train-split",
            "--num_envs": "--slots",
            "--eval_episodes": "--eval-tasks",
            "--history": "--history-actions",
        },
        pairs={"env_options": "env-arg", "algo_args": "algo-arg"},
    )


def main(argv: Sequence[str]) -> int:
    """Train, evaluate against random actions, and print the comparison."""
    chosen = read_command(sb3_command(), argv)
    options = chosen.options
    settings = dataclasses.replace(chosen.settings, env=resolve_env_id(chosen.settings.env))
    check_arguments(settings.env, settings.env_options)
    if options.dry_run:
        from eto_gym.trainers.sb3.training import check_run

        check_run(settings)
        print(printed(dataclasses.replace(chosen, settings=settings), out=options.out))
        return 0
    from eto_gym.trainers.sb3.training import train

    name = f"runs/sb3-{settings.algo}-{settings.env.split('/')[-1]}".lower()
    out = Path(options.out or name)
    print(f"{render(train(settings, out))}\n\nRun folder: {out.resolve()}")
    return 0


def render(report: dict[str, Any]) -> str:
    """Write the evaluation as a table, one policy a line, random actions first."""
    lines = [f"{'policy':<10}{'success':>24}{'reward':>26}{'steps':>8}{'errors':>8}{'p':>10}"]
    for name, summary in report["policies"].items():
        test = report["against_random"].get(name)
        lines.append(
            f"{name:<10}{_interval(summary['success']):>24}{_interval(summary['reward']):>26}"
            f"{summary['steps']:>8.1f}{sum(summary['errors'].values()):>8}"
            + (f"{test['p']:>10.2g}" if test else f"{'-':>10}")
        )
    return "\n".join(
        [
            *lines,
            f"{report['eval_tasks']} held-out tasks, 95% intervals; p: McNemar's exact test "
            "against random admissible actions on the same tasks",
        ]
    )


def _interval(estimate: dict[str, float]) -> str:
    return f"{estimate['mean']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"
