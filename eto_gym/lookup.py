"""What an environment's id alone tells: its splits, tasks, prompt, and how an episode opens.

Where that needs an environment, one is made and closed again; engines start for `opening` only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from eto_gym.conversation import ConversationEnv, PromptStyle
from eto_gym.env import text_env
from eto_gym.errors import EtoGymError, UnknownNameError
from eto_gym.history import FULL
from eto_gym.prompt import Prompt
from eto_gym.registration import env_class, make_text_env, resolve_env_id
from eto_gym.tasks import Task, TaskSet


def splits(env_id: str) -> tuple[str, ...]:
    """Return the names of an environment's splits; no environment is made.

    Official ALFWorld games have further names for theirs, see `ALFWorldEnv`.

    Args:
        env_id: A registered id, or its short form.

    Raises:
        UnknownNameError: There is no such environment.
        EtoGymError: Its class does not tell (`TextEnv.splits`).

    Example:
        >>> splits("webshop")
        ('train', 'test', 'all')
    """
    env_id = resolve_env_id(env_id)
    names = env_class(env_id).splits
    if not names:
        raise EtoGymError(f"{env_id} does not tell its splits: its class sets no `splits`")
    return names


def tasks(env_id: str, split: str | None = None, **kwargs: Any) -> TaskSet:
    """Return the tasks of a split.

    Args:
        env_id: A registered id, or its short form.
        split: Name of the split; None: the environment's default.
        kwargs: Further arguments of `gym.make`, such as the folder of the data.

    Raises:
        UnknownNameError: There is no such environment, split or argument.
        EtoGymError: The environment cannot be made.

    Example:
        >>> tasks("scienceworld", "test")[0].id
        'boil/21'
    """
    with _made(env_id, kwargs if split is None else {**kwargs, "split": split}) as env:
        return text_env(env).task_set


def prompt(env_id: str, **kwargs: Any) -> Prompt:
    """Return the instruction and worked example that introduce a benchmark to an agent.

    Args:
        env_id: A registered id, or its short form.
        kwargs: Arguments of `gym.make`.

    Raises:
        UnknownNameError: There is no such environment or argument.
        EtoGymError: The environment cannot be made.

    Example:
        >>> prompt("alfworld").observation_prefix
        'Observation: '
    """
    with _made(env_id, kwargs) as env:
        return text_env(env).prompt()


def opening(
    env_id: str,
    task: Task | str | int,
    prompt_style: PromptStyle = "one-shot",
    *,
    history: str = FULL,
    **kwargs: Any,
) -> list[dict[str, str]]:
    """Return what an agent reads before its first reply to a task, ready for a chat model.

    Args:
        env_id: A registered id, or its short form.
        task: One of `tasks`, its id, or its position in the split.
        prompt_style: What precedes the first observation, as in `ConversationEnv`.
        history: How much of the conversation is read, as in `ConversationEnv`.
        kwargs: Arguments of `gym.make`, such as the task's `split`.

    Returns:
        Messages with `role` and `content`; the last is the first observation.

    Raises:
        UnknownNameError: There is no such environment, task or argument.
        EtoGymError: The environment cannot be made.

    Example:
        >>> [message["role"] for message in opening("alfworld", 0)]
        ['user', 'assistant', 'user']
    """
    with _made(env_id, kwargs) as env:
        talk = ConversationEnv(env, prompt_style=prompt_style, history=history)
        # The seed decides nothing that is read, since the task is given; it makes this repeatable.
        talk.reset(seed=0, options={"task": id_of_task(task, text_env(env).task_set)})
        return [{"role": m.role, "content": m.content} for m in talk.prompt]


def id_of_task(task: Task | str | int, known: TaskSet) -> str | int:
    """Return a task's id. A position is the split's: a number may mean another thing to `reset`.

    Args:
        task: One of `known`, its id, or its position among them.
        known: The tasks of a split.

    Raises:
        UnknownNameError: There is no such position.
    """
    if isinstance(task, Task):
        return task.id
    if not isinstance(task, int | np.integer) or isinstance(task, bool):
        return task
    if not 0 <= task < len(known):
        raise UnknownNameError(f"expected a position in 0..{len(known) - 1}, got {task}")
    return known[task].id


@contextlib.contextmanager
def _made(env_id: str, kwargs: dict[str, Any]) -> Iterator[Any]:
    env = make_text_env(resolve_env_id(env_id), **kwargs)
    try:
        yield env
    finally:
        env.close()
