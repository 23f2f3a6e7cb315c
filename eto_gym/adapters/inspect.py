"""Text environments as a task of Inspect (https://inspect.aisi.org.uk).

    inspect eval eto_gym/adapters/inspect.py -T env=webshop -T split=test -T limit=50 --model MODEL

Every reply of the model is one step of the environment; `success` and `reward` are scored by the
engine, and averaged.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

from eto_gym.adapters import first_tasks, result_so_far
from eto_gym.conversation import ConversationEnv
from eto_gym.env import text_env
from eto_gym.errors import EtoGymError, require
from eto_gym.registration import make_text_env, resolve_env_id

require("inspect_ai", feature="eto_gym.adapters.inspect", extra="inspect")
from inspect_ai import Task, task  # noqa: E402
from inspect_ai.dataset import Sample  # noqa: E402
from inspect_ai.model import (  # noqa: E402
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
)
from inspect_ai.scorer import Score, Target, mean, scorer, stderr  # noqa: E402
from inspect_ai.solver import Generate, TaskState, solver  # noqa: E402

_KINDS = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}


@task  # type: ignore[untyped-decorator]
def eto_gym(
    env: str = "alfworld",
    split: str | None = None,
    limit: int | None = None,
    prompt_style: str = "one-shot",
    env_kwargs: str | dict[str, Any] = "{}",
) -> Task:
    """Return the task of a split.

    Args:
        env: A registered id, one that an installed package offers, or either in short.
        split: Of the benchmark; None is its default.
        limit: Tasks at most; None takes all.
        prompt_style: What precedes the first observation; see `ConversationEnv`.
        env_kwargs: Arguments of `gym.make`, as JSON; on its command line Inspect reads it.

    Raises:
        EtoGymError: The environment cannot be made, the limit is below 1, or `env_kwargs` is no
            JSON object.
    """
    made = {
        "env": resolve_env_id(env),
        "kwargs": _arguments(env_kwargs) | ({} if split is None else {"split": split}),
        "prompt_style": prompt_style,
    }
    samples = []
    with contextlib.closing(_make(made)) as opened:
        for each in first_tasks(text_env(opened).task_set, limit):
            opened.reset(options={"task": each.id})
            prompt = [_KINDS[m["role"]](content=m["content"]) for m in opened.chat_messages()]
            metadata = {"task_type": each.type, "task": each.id}
            samples.append(Sample(id=each.id, input=prompt, metadata=metadata))
        card = text_env(opened).card()
    return Task(dataset=samples, solver=play(made), scorer=engine(), metadata={"card": card})


@solver  # type: ignore[untyped-decorator]
def play(made: dict[str, Any]) -> Any:
    """Play the episode of a sample; the result is kept in its store.

    Where the engine fails, the sample ends in an error: it has no score.
    """

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        env = await asyncio.to_thread(_make, made)
        try:
            await asyncio.to_thread(env.reset, options={"task": state.metadata["task"]})
            ended = False
            _keep(state, env)
            while not ended:
                state = await generate(state)
                reply = state.output.completion
                observation, _, terminated, truncated, _ = await asyncio.to_thread(env.step, reply)
                ended = terminated or truncated
                state.messages.append(ChatMessageUser(content=observation))
                _keep(state, env)
        finally:
            await asyncio.to_thread(env.close)
        return state

    return solve


@scorer(  # type: ignore[untyped-decorator]
    metrics={"success": [mean(), stderr()], "reward": [mean(), stderr()]}
)
def engine() -> Any:
    """Score an episode by what the engine said; one that did not end counts as it stands."""

    async def score(state: TaskState, target: Target) -> Score:
        told = {name: state.store.get(name, 0.0) for name in ("success", "reward")}
        return Score(value=told, answer=state.output.completion[-200:])

    return score


def _keep(state: TaskState, env: ConversationEnv) -> None:
    """Keep what the episode has come to: a limit of Inspect's may end it at the next reply."""
    result = result_so_far(env)
    state.store.set("success", float(result.success))
    state.store.set("reward", float(result.reward))


def _arguments(given: str | dict[str, Any]) -> dict[str, Any]:
    try:
        read = json.loads(given) if isinstance(given, str) else given
    except (ValueError, RecursionError):
        read = None
    if not isinstance(read, dict):
        raise EtoGymError(f"expected a JSON object as env_kwargs, got {given!r:.80}")
    return read


def _make(made: dict[str, Any]) -> ConversationEnv:
    inner = make_text_env(made["env"], **made["kwargs"])
    return ConversationEnv(inner, prompt_style=made["prompt_style"])
