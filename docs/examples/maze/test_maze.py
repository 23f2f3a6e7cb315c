"""The rules of every text environment, run against this one: `pytest docs/examples/maze`."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import maze  # registers Maze-v0

from eto_gym.testing import TextEnvContract


class TestMaze(TextEnvContract):
    """Each rule is a test of its own."""

    def make_env(self, **kwargs: Any) -> gym.Env[str, str]:
        """Make the environment as a user does."""
        return gym.make(f"{maze.__name__}:Maze-v0", **kwargs)
