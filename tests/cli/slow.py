"""A corridor whose steps take a while, for a command that is to be interrupted."""

from __future__ import annotations

import time

import gymnasium as gym

from tests.toy import CorridorEnv


class SlowCorridorEnv(CorridorEnv):
    """Sleeps in every step, and longer after the first tasks: the end is far away then."""

    def _step(self, action: str) -> tuple[str, float, bool, bool]:
        first = int(self.task.id.rpartition("/")[2]) < 4
        time.sleep(0.05 if first else 2.0)
        return super()._step(action)


gym.register("Slow-v0", entry_point=SlowCorridorEnv, max_episode_steps=8)
