"""The player of the shop names what it sees as the page does, and takes only what is offered."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import pytest

import eto_gym
from eto_gym import EtoGymError


def roam(seed: int, steps: int = 12) -> tuple[list[str], list[str]]:
    """Play one episode; return its replies, and the actions that were not on offer."""
    env: Any = gym.make("ETO/WebShop-v0", admissible_actions=True, max_episode_steps=steps)
    observation, info = env.reset(seed=0)
    player = env.unwrapped.make_player(seed)
    replies, odd = [], []
    done = False
    while not done:
        reply = player.act(observation, info)
        offered = info["admissible_actions"]
        if reply.action not in offered and not (
            reply.action.startswith("search[") and "search[<query>]" in offered
        ):
            odd.append(reply.action)
        replies.append(str(reply))
        observation, _, terminated, truncated, info = env.step(reply.action)
        done = terminated or truncated
    env.close()
    return replies, odd


def test_it_takes_what_is_offered_and_differs_by_its_seed() -> None:
    assert eto_gym.registered_ids()
    played = [roam(seed) for seed in range(4)]
    assert all(odd == [] for _, odd in played)
    assert roam(1) == played[1]
    assert len({tuple(replies) for replies, _ in played}) == 4
    said = "\n".join(reply for replies, _ in played for reply in replies)
    assert "I take a closer look at B0" in said
    assert "<query>" not in said


def test_it_says_what_it_needs() -> None:
    env: Any = gym.make("ETO/WebShop-v0")
    observation, info = env.reset(seed=0)
    with pytest.raises(EtoGymError, match="admissible_actions=True"):
        env.unwrapped.make_player(0).act(observation, info)
    env.close()
