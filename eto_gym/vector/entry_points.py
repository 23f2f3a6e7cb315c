"""What `gym.make_vec` calls: one function per registered environment."""

from __future__ import annotations

from typing import Any

from eto_gym.vector.env import TextVectorEnv


def alfworld(num_envs: int, **kwargs: Any) -> TextVectorEnv:
    """Make a vector of `ETO/ALFWorld-v0`; the arguments are those of `TextVectorEnv`."""
    return TextVectorEnv("ETO/ALFWorld-v0", num_envs, **kwargs)


def webshop(num_envs: int, **kwargs: Any) -> TextVectorEnv:
    """Make a vector of `ETO/WebShop-v0`; the arguments are those of `TextVectorEnv`."""
    return TextVectorEnv("ETO/WebShop-v0", num_envs, **kwargs)


def scienceworld(num_envs: int, **kwargs: Any) -> TextVectorEnv:
    """Make a vector of `ETO/ScienceWorld-v0`; the arguments are those of `TextVectorEnv`."""
    return TextVectorEnv("ETO/ScienceWorld-v0", num_envs, **kwargs)
