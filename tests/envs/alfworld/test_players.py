"""The players that are no experts: legal, varied, repeatable, and silent about the task."""

from __future__ import annotations

import re
from collections import Counter
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eto_gym.envs.alfworld.env import ALFWorldEnv
from eto_gym.envs.alfworld.players.players import (
    Explorer,
    NoisyExpert,
    PlayerName,
    RandomPlayer,
    make_player,
)
from eto_gym.envs.alfworld.players.thoughts import SEEKING, narrate
from eto_gym.errors import EtoGymError, UnknownNameError
from eto_gym.expert import Reply

NAMES: tuple[PlayerName, ...] = ("random", "noisy", "explorer")
SOUGHT = [
    re.compile(
        re.escape(way)
        .replace(r"\{kind\}", "(?P<kind>[a-z]+)")
        .replace(r"\{place\}", r"[a-z]+ \d+")
        .replace(r"\{last\}", r"[a-z]+ \d+")
        .replace(r"\{item\}", r"[a-z]+ \d+")
    )
    for ways in SEEKING.values()
    for way in ways
    if "{kind}" in way
]
"""What the explorer says while it seeks things."""


def play(
    name: PlayerName, task: int, seed: int, *, verb: Literal["put", "move"] = "put"
) -> tuple[list[Reply], list[str], bool]:
    env = ALFWorldEnv("builtin", "train", action_grammar=verb, admissible_actions=True)
    observation, info = env.reset(options={"task": task})
    player = make_player(name, np.random.default_rng(seed), verb=verb)
    replies, observations = [], [observation]
    for _ in range(40):
        reply = player.act(observation, info)
        assert reply is not None
        replies.append(reply)
        observation, _, terminated, _, info = env.step(reply.action)
        observations.append(observation)
        if terminated:
            break
    return replies, observations, bool(info["success"])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("verb", ["put", "move"])
def test_every_action_is_admissible(name: PlayerName, verb: Literal["put", "move"]) -> None:
    for task in range(25):
        _, observations, _ = play(name, task, task, verb=verb)
        assert "Nothing happens." not in observations


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides_the_play(name: PlayerName) -> None:
    one = play(name, 5, 1)
    assert one == play(name, 5, 1)
    assert one != play(name, 5, 2)


@pytest.mark.parametrize("name", ["random", "explorer"])
def test_tasks_are_hardly_ever_solved(name: PlayerName) -> None:
    assert sum(play(name, task, task)[2] for task in range(60)) <= 15


def test_the_noisy_expert_mostly_solves_them_but_strays() -> None:
    plays = [play("noisy", task, task) for task in range(40)]
    assert sum(success for _, _, success in plays) >= 30
    assert np.mean([len(replies) for replies, _, _ in plays]) > 11


def test_the_explorer_shows_every_verb() -> None:
    verbs: Counter[str] = Counter()
    for task in range(150):
        verbs.update(reply.action.split()[0] for reply in play("explorer", task, task)[0])
    expected = "go open close take put heat cool clean use examine inventory look"
    assert set(expected.split()) <= set(verbs)


@pytest.mark.parametrize("name", NAMES)
def test_thoughts_tell_the_action_and_not_the_task(name: PlayerName) -> None:
    for task in range(10):
        replies, _, _ = play(name, task, task)
        for reply in replies:
            narrated = {narrate(reply.action, np.random.default_rng(seed)) for seed in range(40)}
            sought = name == "explorer" and any(p.fullmatch(reply.thought) for p in SOUGHT)
            assert reply.thought in narrated or sought
            assert "task" not in reply.thought


def test_what_the_explorer_seeks_has_nothing_to_do_with_the_task() -> None:
    env = ALFWorldEnv("builtin", "train", admissible_actions=True)
    same = []
    for task in range(100):
        observation, info = env.reset(options={"task": task})
        wanted = env.task.id.split("-")[1].lower()
        player = Explorer(np.random.default_rng(task))
        for _ in range(20):
            reply = player.act(observation, info)
            observation, _, _, _, info = env.step(reply.action)
            seeking = [m for p in SOUGHT if (m := p.fullmatch(reply.thought))]
            same += [match["kind"] == wanted for match in seeking]
    assert len(same) > 300
    assert np.mean(same) < 0.15


def test_an_explorer_works_without_the_list_of_actions() -> None:
    env = ALFWorldEnv("builtin", "train", observation="eto")
    observation, info = env.reset(options={"task": 0})
    player = Explorer(np.random.default_rng(0))
    for _ in range(30):
        observation, _, _, _, info = env.step(player.act(observation, info).action)
        assert observation != "Nothing happens."


@given(st.text(max_size=60), st.integers(0, 9))
@settings(max_examples=50)
def test_an_explorer_copes_with_any_text(text: str, seed: int) -> None:
    player = Explorer(np.random.default_rng(seed))
    for observation in (text, "Nothing happens.", text, text):
        assert player.act(observation, {}).action


@pytest.mark.parametrize("player", [RandomPlayer, lambda rng: NoisyExpert(rng, noise=1.0)])
def test_random_actions_need_the_list_of_actions(
    player: type[RandomPlayer],
) -> None:
    with pytest.raises(EtoGymError, match="admissible_actions=True"):
        player(np.random.default_rng(0)).act("You are in a room.", {})


def test_bad_arguments_are_told() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'noisy'"):
        make_player("noisey", np.random.default_rng(0))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected noise"):
        NoisyExpert(np.random.default_rng(0), noise=1.5)
    with pytest.raises(ValueError, match="expected an action"):
        narrate("dance", np.random.default_rng(0))
