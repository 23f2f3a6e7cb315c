"""The state block of ALFWorld tells what was seen, and nothing else."""

from __future__ import annotations

import re

import gymnasium as gym
import numpy as np
import pytest

from eto_gym.conversation import FORMAT_ERROR
from eto_gym.envs.alfworld.recap import write_state
from eto_gym.history import Exchange
from eto_gym.testing import text_env

NAME = re.compile(r"[a-z]+ \d+")


@pytest.mark.parametrize("style", ["full", "eto"])
@pytest.mark.parametrize("grammar", ["put", "move"])
def test_it_names_nothing_that_was_not_read(style: str, grammar: str) -> None:
    env = gym.make(
        "ETO/ALFWorld-v0", observation=style, action_grammar=grammar, admissible_actions=True
    )
    assert text_env(env).state_writer() is write_state
    rng = np.random.default_rng(0)
    for task in range(6):
        first, info = env.reset(seed=task, options={"task": task})
        seen = {*NAME.findall(first)}
        exchanges: list[Exchange] = []
        assert write_state(first, exchanges) == ""
        for _ in range(39):
            action = info["admissible_actions"]
            chosen = action[int(rng.integers(len(action)))]
            observation, _, done, _, info = env.step(chosen)
            exchanges.append(Exchange(chosen, observation))
            seen |= {*NAME.findall(observation)}
            block = write_state(first, exchanges)
            assert {*NAME.findall(block)} <= seen
            if done:
                break
    env.close()


def test_it_follows_the_expert() -> None:
    env = gym.make("ETO/ALFWorld-v0")
    kinds = set()
    for task in range(40):
        first, info = env.reset(options={"task": task})
        expert = text_env(env).make_expert()
        exchanges: list[Exchange] = []
        observation, done = first, False
        while not done and (reply := expert.act(observation, info)) is not None:
            observation, _, done, _, info = env.step(reply.action)
            exchanges.append(Exchange(reply.action, observation))
            lines = dict(
                line.split(": ", 1) for line in write_state(first, exchanges).split("\n")[1:]
            )
            kinds |= set(lines)
            if reply.action.startswith("go to "):
                assert lines["You are at"] == reply.action.removeprefix("go to ")
            if reply.action.startswith("take "):
                thing = reply.action.removeprefix("take ").partition(" from ")[0]
                assert lines["You hold"] == thing
                assert thing not in lines.get("Found", "").replace(";", ",").split(", ")
            if reply.action.startswith(("put ", "move ")):
                assert lines["You hold"] == "nothing"
        assert done
    env.close()
    assert kinds >= {"Task", "You are at", "You hold", "Found", "Treated", "Turned on", "Closed"}


def test_replies_without_an_action_and_foreign_texts_tell_nothing() -> None:
    first = "Hello."
    block = write_state(
        first, [Exchange(None, FORMAT_ERROR), Exchange("go to \n", "Nothing happens.")]
    )
    assert "You hold: nothing" in block
    assert "middle of the room" in block
