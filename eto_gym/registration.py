"""The ids of eto-gym in the Gymnasium registry, and lists of them for tests and tools."""

from __future__ import annotations

import gymnasium as gym

from eto_gym import shared_text

NAMESPACE = "ETO"


def register_all() -> None:
    """Register every environment of the suite; engines are imported only by `gym.make`."""
    shared_text.register()
    gym.register(
        id=f"{NAMESPACE}/ALFWorld-v0",
        entry_point="eto_gym.envs.alfworld:ALFWorldEnv",
        vector_entry_point="eto_gym.vector.entry_points:alfworld",
        max_episode_steps=40,
    )
    gym.register(
        id=f"{NAMESPACE}/WebShop-v0",
        entry_point="eto_gym.envs.webshop:WebShopEnv",
        vector_entry_point="eto_gym.vector.entry_points:webshop",
        max_episode_steps=10,
    )
    gym.register(
        id=f"{NAMESPACE}/ScienceWorld-v0",
        entry_point="eto_gym.envs.scienceworld:ScienceWorldEnv",
        vector_entry_point="eto_gym.vector.entry_points:scienceworld",
    )


def registered_ids() -> list[str]:
    """Return the sorted ids of the suite."""
    return sorted(name for name in gym.registry if name.startswith(f"{NAMESPACE}/"))
