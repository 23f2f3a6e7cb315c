"""The state block of ScienceWorld tells what was seen, and nothing else."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import gymnasium as gym
import pytest

from eto_gym.envs.scienceworld.recap import WorldRecap
from eto_gym.envs.scienceworld.session import EngineSession
from eto_gym.history import Exchange
from eto_gym.testing import text_env
from tests.envs.recaps import check_long_episode, from_scratch

TURNS = (
    "inventory",
    "open door to kitchen",
    "go to kitchen",
    "look around",
    "pick up thermometer",
    "open cupboard",
    "look in cupboard",
    "pick up glass cup",
    "use thermometer in inventory on glass cup in inventory",
    "dance",
    "focus on glass cup",
    "move glass cup to sink",
    "go to hallway",
)
EVERYWHERE = (
    "pick up thermometer",
    "use thermometer in inventory on air",
    "pick up orange",
    "put down orange",
    "inventory",
)


def test_it_follows_play(warm_lane: EngineSession) -> None:
    env = gym.make("ETO/ScienceWorld-v0", lanes=1, simplification="none")
    first, _ = env.reset(options={"task": "boil/0"})
    assert text_env(env).state_writer() is WorldRecap
    assert from_scratch(WorldRecap, first, []) == ""
    exchanges: list[Exchange] = []
    told: dict[str, dict[str, str]] = {}
    for action in TURNS:
        observation, *_ = env.step(action)
        exchanges.append(Exchange(action, observation))
        lines = from_scratch(WorldRecap, first, exchanges).split("\n")
        told[action] = dict(line.split(": ", 1) for line in lines[1:])
    env.close()
    assert {lines["Task"][:10] for lines in told.values()} == {"boil water"}
    assert told["inventory"]["You are in"] == "hallway"
    assert told["inventory"]["You carry"] == "orange"
    assert "Seen in hallway" in told["inventory"]
    assert "Seen in kitchen" not in told["go to kitchen"]
    assert told["go to kitchen"]["You are in"] == "kitchen"
    assert "freezer" in told["look around"]["Seen in kitchen"]
    assert told["pick up glass cup"]["You carry"] == "orange, thermometer, glass cup"
    assert "tin cup" in told["look in cupboard"]["Seen in cupboard (kitchen)"]
    measured = told["use thermometer in inventory on glass cup in inventory"]
    assert "degrees" in measured["Last measured"]
    assert told["focus on glass cup"]["Focused on"] == "glass cup"
    last = told["go to hallway"]
    assert (last["You are in"], last["You carry"]) == ("hallway", "orange, thermometer")


def test_what_was_not_seen_is_not_told() -> None:
    first = "Task Description:\nYour task is to boil water. Then wait.\n"
    block = from_scratch(
        WorldRecap, first, [Exchange("look around", "Nothing of note."), Exchange(None, "Error")]
    )
    assert block.split("\n")[1:] == [
        "Task: boil water. Then wait.",
        "You are in: ",
        "You carry: nothing that you know of",
    ]


@pytest.mark.parametrize(
    "text", ["", "In your inventory, you see:", "You move the  to the .", "\t"]
)
def test_foreign_texts_raise_nothing(text: str) -> None:
    block = from_scratch(WorldRecap, text, [Exchange("", text), Exchange("a", text)])
    assert block.startswith("So far:")


def test_long_listings_are_cut() -> None:
    room = "This room is called the attic. In it, you see: \n" + "\ta very old chair\n" * 500
    block = from_scratch(WorldRecap, room, [Exchange("wait", "You wait.")])
    assert "Seen in attic: very old chair; " in block
    assert len(block) < 400


def test_a_long_episode_is_told_step_by_step(
    warm_lane: EngineSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = gym.make("ETO/ScienceWorld-v0", lanes=1, simplification="none", max_episode_steps=500)
    rooms = ("kitchen", "hallway", "bedroom", "hallway", "greenhouse", "hallway")
    actions = cycle(
        action
        for room in rooms
        for action in (f"open door to {room}", f"go to {room}", "look around", *EVERYWHERE)
    )

    def choose(info: dict[str, Any]) -> str:
        return next(actions)

    check_long_episode(env, choose, monkeypatch, turns=90, options={"task": "boil/0"})
    env.close()
