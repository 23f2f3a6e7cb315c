"""What several commands share: naming an environment, and passing arguments to `gym.make`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from typing import Any, get_args

from eto_gym.errors import EtoGymError, UnknownNameError
from eto_gym.prompt import Feedback
from eto_gym.registration import data_kwargs
from eto_gym.tasks import TaskSet


def add_env_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a split and pass anything else to `gym.make`."""
    parser.add_argument("--split", default=None, help="split of tasks (default: the benchmark's)")
    parser.add_argument(
        "--data",
        default="",
        metavar="FOLDER",
        help="'builtin' for the benchmark's own tasks, or a folder of official data (ALFWorld's "
        "games, WebShop's catalog)",
    )
    parser.add_argument(
        "--env-arg",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="argument of gym.make; VALUE is read as JSON if it is JSON, as text otherwise",
    )
    parser.add_argument(
        "--feedback",
        choices=get_args(Feedback),
        default=None,
        help="helpful answers an action that came to nothing with why, as far as the agent can see "
        "it (default plain, as in the paper)",
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
    parser.add_argument("--task-type", default=None, help="only the tasks of this type")
    parser.add_argument("--limit", type=int, default=None, help="only so many tasks")
    parser.add_argument(
        "--shuffle-seed",
        type=int,
        default=None,
        help="shuffle the tasks before --limit takes effect (default: the split's own order)",
    )


def choose_tasks(tasks: TaskSet, args: argparse.Namespace) -> TaskSet:
    """Return the tasks that the options ask for."""
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
