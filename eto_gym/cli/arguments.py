"""What several commands share: options that name an environment, its tasks, and who plays them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

from eto_gym.conversation import PromptStyle
from eto_gym.errors import EtoGymError, UnknownNameError
from eto_gym.history import FULL
from eto_gym.prompt import Feedback
from eto_gym.registration import data_kwargs
from eto_gym.tasks import TaskSet
from eto_gym.trajectories import ErrorKind

ENV_HELP = "scienceworld, alfworld, webshop, or a registered id"
"""What every command takes as its environment."""


def add_env_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a split and pass anything else to `gym.make`."""
    parser.add_argument(
        "--split", default=None, metavar="NAME", help="split of tasks (default: the benchmark's)"
    )
    parser.add_argument(
        "--data",
        default="",
        metavar="FOLDER",
        help="'builtin' for the benchmark's own tasks, or a folder of official data (ALFWorld's "
        "games, WebShop's catalog) (default: builtin)",
    )
    parser.add_argument(
        "--env-arg",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="argument of gym.make; VALUE is read as JSON if it is JSON, as text otherwise; "
        "repeatable",
    )
    parser.add_argument(
        "--feedback",
        choices=get_args(Feedback),
        default=None,
        help="helpful answers an action that came to nothing with why, as far as the agent can see "
        "it (default: plain, as in the paper)",
    )


def env_arguments(args: argparse.Namespace, env_id: str) -> dict[str, Any]:
    """Return the arguments of `gym.make` that the options ask for."""
    chosen = {**data_kwargs(env_id, args.data), **parse_pairs(args.env_arg)}
    if args.split is not None:
        chosen["split"] = args.split
    if getattr(args, "feedback", None) is not None and args.feedback != "plain":
        chosen["feedback"] = args.feedback
    return chosen


def parse_pairs(pairs: Iterable[str]) -> dict[str, Any]:
    """Read `name=value` pairs.

    Example:
        >>> parse_pairs(["lanes=1", "simplification=easy", "java=null"])
        {'lanes': 1, 'simplification': 'easy', 'java': None}

    Raises:
        UnknownNameError: A pair has no `=`, or a name that is no Python identifier.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise UnknownNameError(f"expected NAME=VALUE, got {pair!r}")
        try:
            values[name] = json.loads(text)
        except (ValueError, RecursionError):
            values[name] = text
    return values


def add_task_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose among the tasks of a split."""
    parser.add_argument(
        "--task-type", default=None, metavar="NAME", help="only tasks of this type (default: all)"
    )
    parser.add_argument(
        "--limit", type=int, default=None, metavar="N", help="only so many tasks (default: all)"
    )
    parser.add_argument(
        "--shuffle-seed",
        type=int,
        default=None,
        metavar="N",
        help="shuffle the tasks before --limit takes effect (default: the split's own order)",
    )


def add_playing_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the commands that play episodes and store them."""
    _add_policy_arguments(parser)
    add_env_arguments(parser)
    parser.add_argument(
        "--task", action="append", default=[], metavar="ID", help="a task by its id; repeatable"
    )
    parser.add_argument(
        "--task-file", type=Path, metavar="FILE", help="file with one task id per line"
    )
    add_task_arguments(parser)
    parser.add_argument(
        "--shard",
        default=None,
        metavar="I/N",
        help="every N-th task from the I-th on, I from 0: the shards 0/N to N-1/N are all tasks",
    )
    _add_episode_arguments(parser)
    _add_process_arguments(parser)


def _add_policy_arguments(parser: argparse.ArgumentParser) -> None:
    """Add who plays, and how its replies are drawn."""
    parser.add_argument(
        "--policy",
        metavar="POLICY",
        help="expert, player, random; a model's folder, a GGUF file, smollm2, or a name on the "
        "Hugging Face hub; or endpoint:URL[,URL...] of OpenAI-compatible servers (default: of "
        "`eto-gym expert`, expert; otherwise it has to be named)",
    )
    add_temperature(parser)
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=None,
        metavar="N",
        help="longest reply of a model in tokens (default: 128)",
    )
    parser.add_argument(
        "--max-context",
        type=int,
        default=None,
        metavar="N",
        help="longest conversation in tokens (default: what the model allows)",
    )
    parser.add_argument(
        "--policy-arg",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="further argument of the policy (adapter, dtype, device, chat_template, model, "
        "...); VALUE is read as JSON if it is JSON, as text otherwise; repeatable",
    )


def add_temperature(parser: argparse.ArgumentParser) -> None:
    """Add `--temperature`, which is None where it was not given: not every policy has one."""
    parser.add_argument(
        "--temperature",
        type=float,
        default=None,
        metavar="X",
        help="sampling temperature of a model's replies; 0: greedy (default: 0)",
    )


def add_prompt_style(
    parser: argparse.ArgumentParser, told: str = "what precedes the first observation"
) -> None:
    """Add `--prompt-style`; `told` is its help without the default."""
    parser.add_argument(
        "--prompt-style",
        choices=get_args(PromptStyle),
        default="one-shot",
        help=f"{told} (default: one-shot, as in the paper)",
    )


def add_history(parser: argparse.ArgumentParser) -> None:
    """Add `--history`."""
    parser.add_argument(
        "--history",
        default=FULL,
        metavar="TEXT",
        help="how much of the conversation the policy reads: full; last:K for the instruction, "
        "the task and the last K exchanges; or state for these and what the environment writes of "
        "what was seen so far (default: full, as in the paper)",
    )


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Add `--seed` of what is played."""
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the episodes (default: 0)"
    )


def _add_episode_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what an episode is, and where it is stored."""
    parser.add_argument(
        "--samples", type=int, default=None, metavar="N", help="episodes per task (default: 1)"
    )
    add_seed(parser)
    add_prompt_style(parser)
    add_history(parser)
    parser.add_argument(
        "--record-admissible",
        action="store_true",
        help="store the admissible actions of every turn too, for `eto-gym view`; files get larger",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=None,
        metavar="FILE",
        help="JSONL file of the trajectories; what it holds is not played again (default: below "
        "runs/, named by benchmark, split and policy)",
    )


def _add_process_arguments(parser: argparse.ArgumentParser) -> None:
    """Add in how many processes episodes are played, and what is done about those that fail."""
    parser.add_argument(
        "--slots",
        type=int,
        default=None,
        metavar="N",
        help="environments at once (default: 64; for expert, player and random, which gain nothing "
        "by batches, one for each worker, so that finished episodes are written from the first on)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="processes, with environments and a policy in each (default: 1)",
    )
    parser.add_argument(
        "--env-workers",
        type=int,
        default=0,
        metavar="N",
        help="processes for environments alone, beside each process with a policy (default: 0, the "
        "environments are in that process)",
    )
    parser.add_argument(
        "--launcher",
        default="local",
        metavar="NAME",
        help="where to play: local or ray (default: local)",
    )
    parser.add_argument(
        "--attempts",
        type=int,
        default=3,
        metavar="N",
        help="how often a failed episode is played (default: 3)",
    )
    parser.add_argument(
        "--retry",
        nargs="*",
        action="extend",
        choices=get_args(ErrorKind),
        default=None,
        help="kinds of errors after which an episode is played again in the same run (default: "
        "environment, timeout, worker; with an endpoint also policy and format)",
    )
    parser.add_argument(
        "--step-timeout",
        type=float,
        default=None,
        metavar="S",
        help="seconds that one step may take before the process of its environment is killed and "
        "replaced; implies --env-workers 1 at least (default: no limit)",
    )


def choose_tasks(tasks: TaskSet, args: argparse.Namespace) -> TaskSet:
    """Return the tasks that the options ask for.

    Raises:
        EtoGymError: `--shuffle-seed` or `--limit` is too small, or no task is of the type.
    """
    if args.task_type is not None:
        tasks = tasks.filter(type=args.task_type)
    if args.shuffle_seed is not None:
        if args.shuffle_seed < 0:
            raise EtoGymError(f"expected --shuffle-seed >= 0, got {args.shuffle_seed}")
        tasks = tasks.shuffle(args.shuffle_seed)
    if args.limit is not None:
        if args.limit < 1:
            raise EtoGymError(f"expected --limit >= 1, got {args.limit}")
        tasks = tasks[: args.limit]
    return tasks
