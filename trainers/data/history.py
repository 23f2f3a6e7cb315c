"""Re-reads demonstrations with another history setting than they were recorded with."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym

from eto_gym.env import text_env
from eto_gym.history import FULL, Exchange, StateBlocks
from eto_gym.trajectories import Trajectory


def read_again(trajectory: Trajectory, history: str, env: gym.Env[str, str]) -> Trajectory:
    """Return a trajectory whose replies are taken as given to another part of the conversation.

    Args:
        trajectory: A demonstration. Its observations may have the prompt's prefix.
        history: The setting, see `eto_gym.history`.
        env: An environment of the benchmark, which writes the state blocks.

    Raises:
        DataError: The steps are not those of the conversation.
    """
    if trajectory.history == history or not trajectory.steps:
        return replace(trajectory, history=history)
    plain = replace(trajectory, history=FULL, states=())
    if not history.startswith("state"):
        return replace(plain, history=history)
    inner = text_env(env)
    prefix = inner.prompt().observation_prefix
    states = StateBlocks(inner.state_writer())
    states.rebuild(
        trajectory.messages[trajectory.head].content,
        [Exchange(s.action, s.observation.removeprefix(prefix)) for s in trajectory.steps],
        answered=False,
    )
    return replace(plain, history=history, states=states.read(len(trajectory.steps)))
