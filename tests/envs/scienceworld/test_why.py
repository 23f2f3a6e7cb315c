"""Helpful feedback on the real engine: every failed match has a reason, made of what was seen."""

from __future__ import annotations

import re
from typing import Any

import gymnasium as gym

import eto_gym
from eto_gym.envs.scienceworld import why
from eto_gym.envs.scienceworld.session import EngineSession
from eto_gym.prompt import without_reason

TURNS = (
    ("jump", "'jump' is no action. The actions are: open X"),
    ("open kettle", "You have seen no kettle so far.)"),
    ("go to kitchne", "Did you mean 'kitchen'?"),
    ("open door to kitchen", ""),
    ("go to kitchen", ""),
    ("focus on substance in metal pot", "You have seen no substance in metal pot so far"),
    ("look around", ""),
    ("use thermometer on moon", "You have seen no moon so far"),
    ("use thermometer on water", "is right, but not with thermometer and water in the kitchen"),
    ("pick up thermometer", ""),
    ("", "is no action"),
)
_SAID = (
    "why is no action the actions are you have seen so far did mean form of right but not with and "
    "in what it names must be here or carried suit"
)
WORDS = {*_SAID.split(), *re.findall(r"\w+", " ".join(why._FORMS).lower())}
"""Words of the reasons themselves."""


def test_every_failure_has_a_reason_made_of_what_was_seen(warm_lane: EngineSession) -> None:
    options: dict[str, Any] = {"lanes": 1, "simplification": "none"}
    plain = gym.make("ETO/ScienceWorld-v0", **options)
    env = gym.make("ETO/ScienceWorld-v0", feedback="helpful", **options)
    first, _ = env.reset(options={"task": "boil/0"})
    assert plain.reset(options={"task": "boil/0"})[0] == first
    seen = {*re.findall(r"\w+", first.lower())}
    for action, reason in TURNS:
        before = eto_gym.get_state(env)
        observation, *rest = env.step(action)
        bare, *plain_rest = plain.step(action)
        assert without_reason(observation) == bare
        assert rest == plain_rest
        told = observation.removeprefix(bare)
        assert bool(told) == bare.startswith("No known action matches that input")
        assert reason in told
        assert bool(reason) == bool(told)
        said = {*re.findall(r"\w+", told.lower())}
        assert said <= seen | WORDS | {*re.findall(r"\w+", action.lower())}
        seen |= {*re.findall(r"\w+", bare.lower())}
    eto_gym.set_state(env, before)
    assert env.step(TURNS[-1][0])[0] == observation  # a snapshot keeps what was seen
    plain.close()
    env.close()
