"""The contract of text environments, held by ALFWorld."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from eto_gym.testing import TextEnvContract, TextGymEnv


class TestALFWorld(TextEnvContract):
    def make_env(self, **kwargs: Any) -> TextGymEnv:
        return gym.make("ETO/ALFWorld-v0", **kwargs)
