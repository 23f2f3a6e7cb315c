"""Text environments as a taskset and an environment of verifiers (its v1 API).

    import verifiers.v1 as vf
    from eto_gym.adapters.verifiers import EtoGymConfig, EtoGymTaskset

    taskset = EtoGymTaskset(EtoGymConfig(env="webshop", split="test", limit=100))

The plugin's id is `eto-gym-verifiers`:

    vf-eval eto-gym-verifiers --env.taskset.env webshop -m MODEL --client.base-url URL

The environment plays the user: it steps the engine in this process, every reply of the
model is one step, and the observation is the next turn. It needs no container.

Source: https://github.com/PrimeIntellect-ai/verifiers, as of its package `verifiers` 0.4.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from pydantic import Field

from eto_gym.adapters import first_tasks, result_so_far
from eto_gym.conversation import ConversationEnv
from eto_gym.env import text_env
from eto_gym.errors import require
from eto_gym.registration import make_text_env, resolve_env_id

require("verifiers", feature="eto_gym.adapters.verifiers", extra="verifiers")
import verifiers.v1 as vf  # noqa: E402

__all__ = ["EtoGymConfig", "EtoGymEnv", "EtoGymEnvConfig", "EtoGymTask", "EtoGymTaskset"]


class EtoGymConfig(vf.TasksetConfig):  # type: ignore[misc]
    """What is played.

    Attributes:
        env: A registered id, or a short name.
        split: Of the benchmark; None is its default.
        limit: Tasks at most; None takes all.
        prompt_style: "one-shot" as in the paper, or another of `ConversationEnv`'s.
        env_kwargs: Arguments of `gym.make`.
    """

    env: str = "alfworld"
    split: str | None = None
    limit: int | None = None
    prompt_style: str = "one-shot"
    env_kwargs: dict[str, Any] = Field(default_factory=dict)


class EtoGymData(vf.TaskData):  # type: ignore[misc]
    """A task: what `reset` needs to begin it again."""

    env: str
    split: str | None
    task: str
    task_type: str
    prompt_style: str
    env_kwargs: dict[str, Any]


class EtoGymTask(vf.Task[EtoGymData]):  # type: ignore[misc]
    """A task of a benchmark; it is scored where it is played, by the engine."""


class EtoGymTaskset(vf.Taskset[EtoGymTask, EtoGymConfig]):  # type: ignore[misc]
    """The tasks of a split, in their order, each with the prompt and its first observation."""

    def load(self) -> Iterator[EtoGymTask]:
        """Yield the tasks; the engine is asked for each first observation."""
        config = self.config
        env_id = resolve_env_id(config.env)
        data = {
            "env": env_id,
            "split": config.split,
            "prompt_style": config.prompt_style,
            "env_kwargs": config.env_kwargs,
        }
        env = _make(data)
        try:
            for task in first_tasks(text_env(env).task_set, config.limit):
                env.reset(options={"task": task.id})
                prompt = env.chat_messages()
                yield EtoGymTask(
                    EtoGymData(
                        id=task.id,
                        name=f"{env_id}/{task.id}",
                        prompt=prompt,
                        task=task.id,
                        task_type=task.type,
                        **data,
                    ),
                    config.task,
                )
        finally:
            env.close()


class EtoGymEnvConfig(vf.EnvConfig):  # type: ignore[misc]
    """The environment's agents: one, the player, by default a plain chat on this machine."""

    player: vf.AgentConfig = vf.AgentConfig(harness={"id": "null"}, runtime=vf.SubprocessConfig())


class EtoGymEnv(vf.Env[EtoGymEnvConfig]):  # type: ignore[misc]
    """Plays a task: the model speaks first, to the prompt that holds the first observation."""

    async def run(self, task: EtoGymTask, agents: Any) -> None:
        """Play an episode; its reward and success are recorded on the player's trace.

        An episode that did not end, because the model's own limits ended the exchange, has the
        reward that was earned until then. Where the engine fails there is none, but an error.
        """
        data = task.data
        env = await asyncio.to_thread(_make, data.model_dump())
        try:
            await asyncio.to_thread(env.reset, options={"task": data.task})
            async with agents.player.interaction(task) as interaction:
                segment = await interaction.turn()
                while not segment.terminated:
                    step = await asyncio.to_thread(env.step, segment.last_reply)
                    observation, _, terminated, truncated, _ = step
                    if terminated or truncated:
                        break
                    segment = await interaction.turn(observation)
            result = result_so_far(env)
            trace = interaction.trace
            trace.record_reward("reward", result.reward, 1.0)
            trace.record_metric("success", float(result.success))
            trace.record_metric("steps", float(result.steps))
        finally:
            await asyncio.to_thread(env.close)


def _make(data: dict[str, Any]) -> ConversationEnv:
    kwargs = dict(data["env_kwargs"])
    if data["split"] is not None:
        kwargs["split"] = data["split"]
    inner = make_text_env(data["env"], **kwargs)
    return ConversationEnv(inner, prompt_style=data["prompt_style"])
