"""Naming environments, and what "data" means for each."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import pytest

import eto_gym
from eto_gym import EtoGymError
from eto_gym.registration import data_kwargs, env_class, resolve_env_id
from tests.toy import CORRIDOR, CorridorEnv

DATA = {
    "ETO/ALFWorld-v0": {"data": "builtin"},
    "ETO/WebShop-v0": {"catalog": "builtin"},
    "ETO/ScienceWorld-v0": {},
}


@pytest.mark.parametrize("env_id", eto_gym.registered_ids())
def test_every_environment_says_how_it_takes_data(env_id: str) -> None:
    assert data_kwargs(env_id, "builtin") == DATA[env_id]
    assert data_kwargs(env_id, "") == {}
    gym.make(env_id, **data_kwargs(env_id, "builtin")).close()
    short = env_id.removeprefix("ETO/").removesuffix("-v0")
    assert resolve_env_id(short) == resolve_env_id(short.lower()) == env_id


def test_an_environment_of_another_package_needs_no_data() -> None:
    assert env_class(CORRIDOR) is CorridorEnv
    assert data_kwargs(CORRIDOR, "builtin") == {}
    with pytest.raises(EtoGymError, match="takes no data"):
        data_kwargs(CORRIDOR, "some/folder")


@pytest.mark.parametrize("env_id", ["CartPole-v1", "no_such_module:X-v0", "NoSuch-v0"])
def test_what_is_no_text_environment_is_refused(env_id: str) -> None:
    with pytest.raises(EtoGymError, match=env_id.rpartition(":")[2].removesuffix("-v0")):
        data_kwargs(env_id, "builtin")


@pytest.mark.parametrize("env_id", [*DATA, CORRIDOR])
def test_every_environment_has_a_player(env_id: str) -> None:
    """Its play depends on its seed alone, and every action is one that can be taken."""
    env: Any = gym.make(env_id, admissible_actions=True)

    def play(seed: int) -> list[str]:
        observation, info = env.reset(seed=0)
        player, actions = env.unwrapped.make_player(seed), []
        for _ in range(4):
            reply = player.act(observation, info)
            assert reply is not None
            assert "<query>" not in reply.action
            actions.append(reply.action)
            observation, _, terminated, truncated, info = env.step(reply.action)
            if terminated or truncated:
                break
        return actions

    assert play(1) == play(1)
    assert len({tuple(play(seed)) for seed in range(1, 6)}) > 1
    env.close()
