"""The specification of a rollout: environments, policy, and how they are combined."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym

from eto_gym.agents.policy import Policy
from eto_gym.agents.rollout.engine import Episode, RetryPolicy, Rollout
from eto_gym.conversation import PromptStyle
from eto_gym.history import FULL
from eto_gym.trajectories import ErrorKind, Trajectory
from eto_gym.vector import EnvMaker


@dataclass(frozen=True)
class RolloutSpec:
    """Everything a process needs to play episodes.

    Attributes:
        env_id: Registered id.
        env_kwargs: Arguments of `gym.make`.
        make_policy: Builds the policy inside the process that uses it; must be picklable when
            `workers` is more than 1, as a `functools.partial` of a module's function is.
        prompt_style: What precedes the first observation; see `ConversationEnv`.
        slots: Environments that play at the same time, over all processes.
        workers: Processes. With 1 (the default) everything runs in this one.
        retry: Which failed episodes are played again, and how often.
        env_workers: Processes for the environments alone, beside each of the `workers`; see
            `Rollout`. With 0 (the default) environments and policy are in the same process.
        step_timeout: Seconds that a step or reset of the environment may take; see `Rollout`.
        history: How much of a conversation the policy reads; see `ConversationEnv`.
        record_admissible: Record the admissible actions of every turn; see `Rollout`.
        record_seconds: Record how long every reply took; see `Rollout`.
        policy_name: The name that the policy has, where it is known before it is built; stored
            episodes of another are then played again.
        player: What is recorded of the model that plays; see `Trajectory`.
    """

    env_id: str
    make_policy: Callable[[], Policy]
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    prompt_style: PromptStyle = "one-shot"
    slots: int = 64
    workers: int = 1
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    env_workers: int = 0
    step_timeout: float | None = None
    history: str = FULL
    record_admissible: bool = False
    record_seconds: bool = False
    policy_name: str | None = None
    player: Mapping[str, Any] = field(default_factory=dict)

    def rollout(self, *, slots: int | None = None) -> Rollout:
        """Build the policy and the engine in this process.

        Args:
            slots: Environments of this process; None takes a worker's share of all slots.
        """
        return Rollout(
            EnvMaker(self.env_id, dict(self.env_kwargs)),
            self.make_policy(),
            slots=slots or max(1, self.slots // self.workers),
            prompt_style=self.prompt_style,
            retry=self.retry,
            env_workers=self.env_workers,
            step_timeout=self.step_timeout,
            history=self.history,
            record_admissible=self.record_admissible,
            record_seconds=self.record_seconds,
            player=self.player,
        )

    def make_env(self) -> gym.Env[str, str]:
        """Make one environment."""
        return gym.make(self.env_id, **self.env_kwargs)


def failed_episode(episode: Episode, error: ErrorKind) -> Trajectory:
    """Record an episode of which nothing is left but the kind of its failure."""
    return Trajectory(
        task_id=episode.task_id,
        task_type="",
        messages=(),
        steps=(),
        outcome="error",
        reward=0.0,
        success=False,
        error=error,
        sample=episode.sample,
        seed=episode.seed,
    )
