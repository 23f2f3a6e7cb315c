"""A corridor whose steps take a while, for a command that is to be interrupted."""

from __future__ import annotations

import time

import gymnasium as gym

from tests.toy import CorridorEnv


class SlowCorridorEnv(CorridorEnv):
    """Sleeps in every step."""

    def _step(self, action: str) -> tuple[str, float, bool, bool]:
        time.sleep(0.05)
        return super()._step(action)


gym.register("Slow-v0", entry_point=SlowCorridorEnv, max_episode_steps=8)
