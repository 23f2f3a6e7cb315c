"""The state block of ALFWorld tells what was seen, and nothing else."""

from __future__ import annotations

import re
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from eto_gym.conversation import FORMAT_ERROR
from eto_gym.envs.alfworld.recap import HouseRecap
from eto_gym.history import WHOLE, Exchange
from eto_gym.testing import text_env
from tests.envs.recaps import check_long_episode, from_scratch

NAME = re.compile(r"[a-z]+ \d+")
_LISTED = re.compile(r"([a-z]+) (\d+(?:, \d+)*)")


def listed(text: str) -> list[str]:
    """List the names in a text, in which a number alone belongs to the name before."""
    found = _LISTED.findall(text)
    return [f"{kind} {number}" for kind, numbers in found for number in numbers.split(", ")]


@pytest.mark.parametrize("style", ["full", "eto"])
@pytest.mark.parametrize("grammar", ["put", "move"])
def test_it_names_nothing_that_was_not_read(style: str, grammar: str) -> None:
    env = gym.make(
        "ETO/ALFWorld-v0", observation=style, action_grammar=grammar, admissible_actions=True
    )
    assert text_env(env).state_writer() is HouseRecap
    rng = np.random.default_rng(0)
    for task in range(6):
        first, info = env.reset(seed=task, options={"task": task})
        seen = {*NAME.findall(first)}
        exchanges: list[Exchange] = []
        assert from_scratch(HouseRecap, first, exchanges) == ""
        for _ in range(39):
            action = info["admissible_actions"]
            chosen = action[int(rng.integers(len(action)))]
            observation, _, done, _, info = env.step(chosen)
            exchanges.append(Exchange(chosen, observation))
            seen |= {*NAME.findall(observation)}
            block = from_scratch(HouseRecap, first, exchanges)
            assert {*listed(block)} <= seen
            # Nothing of the first observation is lost: the task, and every place of the room.
            assert block.startswith(f"{WHOLE}\nTask: ")
            assert first.partition("Your task is to: ")[2].strip() in block
            assert {*listed(block)} >= {*NAME.findall(first.partition("Your task")[0])}
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
                line.split(": ", 1)
                for line in from_scratch(HouseRecap, first, exchanges).split("\n")[1:]
            )
            kinds |= set(lines)
            if reply.action.startswith("go to "):
                assert lines["At"] == reply.action.removeprefix("go to ")
            if reply.action.startswith("take "):
                thing = reply.action.removeprefix("take ").partition(" from ")[0]
                assert lines["Held"] == thing
                assert thing not in listed(lines.get("Found", ""))
            if reply.action.startswith(("put ", "move ")):
                assert lines["Held"] == "nothing"
        assert done
    env.close()
    assert kinds >= {"Task", "At", "Held", "Found", "Treated", "Turned on", "Closed"}
    assert kinds >= {"Empty", "Not seen yet"}


def test_replies_without_an_action_and_foreign_texts_tell_nothing() -> None:
    first = "Hello."
    block = from_scratch(
        HouseRecap, first, [Exchange(None, FORMAT_ERROR), Exchange("go to \n", "Nothing happens.")]
    )
    assert block.startswith("So far:\n")  # which does not stand for the first observation
    assert "Held: nothing" in block
    assert "middle of the room" in block


def test_a_long_episode_is_told_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    env = gym.make("ETO/ALFWorld-v0", admissible_actions=True, max_episode_steps=500)
    rng = np.random.default_rng(2)

    def choose(info: dict[str, Any]) -> str:
        actions = [a for a in info["admissible_actions"] if not a.startswith(("put ", "use "))]
        return str(rng.choice(actions))

    check_long_episode(env, choose, monkeypatch, turns=120, options={"task": 1})
    env.close()
