"""Our environments in the shape of TRL's `environment_factory`: one tool, and a reward of its own.

For models that were trained to call tools, with a chat template that renders tool calls:

    from trl import GRPOTrainer
    trainer = GRPOTrainer(
        model,
        environment_factory=tool_environments("ETO/ALFWorld-v0", split="train"),
        train_dataset=tool_dataset("ETO/ALFWorld-v0", split="train"),
        args=...,
    )

`eto-gym train grpo` needs neither: it plays the text form, in which the agent writes its thought
and its action, with any model that has a chat template.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import gymnasium as gym

from eto_gym.env import text_env
from eto_gym.errors import require

_FORM = (
    "In this conversation a reply has another form than the rules above say: think as you like, "
    "then call the tool `act` with your action and nothing else. Call it once in every reply."
)


class ToolEnvironment:
    """One episode at a time; the agent acts by calling the tool `act`.

    TRL makes every public method a tool, so there are no others.
    """

    def __init__(self, env_id: str, **env_kwargs: Any) -> None:
        """Make the environment; `env_kwargs` are those of `gym.make`."""
        self._env = gym.make(env_id, **env_kwargs)
        self._reward: float | None = 0.0
        self._ended = True

    def reset(self, task_id: str, **_: Any) -> str:
        """Start the episode of a task; return its first observation.

        Args:
            task_id: The task; a column of the data set. Other columns are not looked at.
        """
        observation, _info = self._env.reset(options={"task": task_id})
        self._reward, self._ended = 0.0, False
        return str(observation)

    def act(self, action: str) -> str:
        """Take one action in the environment.

        Args:
            action: The action, in the words that the environment understands.

        Returns:
            What is to be seen afterwards.
        """
        if self._ended:
            return "The episode is over."
        earned, self._reward, self._ended = self._reward or 0.0, None, True  # in case this fails
        observation, reward, terminated, truncated, _ = self._env.step(str(action))
        self._reward, self._ended = earned + float(reward), terminated or truncated
        return str(observation)

    def get_reward(self) -> float | None:
        """Return what the episode earned; None, which TRL does not count, if it failed to run."""
        return self._reward


def tool_environments(env_id: str, **env_kwargs: Any) -> Callable[[], ToolEnvironment]:
    """Return what TRL's trainers take as `environment_factory`."""
    return functools.partial(ToolEnvironment, env_id, **env_kwargs)


def tool_dataset(env_id: str, **env_kwargs: Any) -> Any:
    """Return the tasks of a split as a data set for TRL: the prompt, and the task's id.

    The prompt is the benchmark's instruction, which asks for replies as text, and after it how to
    act by the tool instead. TRL appends the first observation to it.

    Raises:
        MissingDependencyError: The `datasets` package is not installed.
    """
    datasets = require("datasets", feature="GRPO", extra="train")
    env = gym.make(env_id, **env_kwargs)
    inner = text_env(env)
    prompt = [{"role": "user", "content": f"{inner.prompt().instruction}\n\n{_FORM}\n\n"}]
    ids = inner.task_set.ids
    env.close()
    return datasets.Dataset.from_dict({"prompt": [prompt] * len(ids), "task_id": list(ids)})
