"""The ids of eto-gym in the Gymnasium registry, and lists of them for tests and tools."""

from __future__ import annotations

import gymnasium as gym

NAMESPACE = "ETO"


def register_all() -> None:
    """Register every environment of the suite; engines are imported only by `gym.make`."""
    gym.register(
        id=f"{NAMESPACE}/ALFWorld-v0",
        entry_point="eto_gym.envs.alfworld:ALFWorldEnv",
        max_episode_steps=40,
    )
    gym.register(
        id=f"{NAMESPACE}/WebShop-v0",
        entry_point="eto_gym.envs.webshop:WebShopEnv",
        max_episode_steps=10,
    )
    gym.register(
        id=f"{NAMESPACE}/ScienceWorld-v0",
        entry_point="eto_gym.envs.scienceworld:ScienceWorldEnv",
    )


def registered_ids() -> list[str]:
    """Return the sorted ids of the suite."""
    return sorted(name for name in gym.registry if name.startswith(f"{NAMESPACE}/"))
