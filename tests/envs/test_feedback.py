"""Helpful feedback: an action that came to nothing is answered with why, from what was seen."""

from __future__ import annotations

import inspect
from typing import Any

import gymnasium as gym
import pytest

import eto_gym
from eto_gym import ConversationEnv
from eto_gym.envs.alfworld import why as alfworld
from eto_gym.envs.scienceworld import why as scienceworld
from eto_gym.envs.webshop import why as webshop
from eto_gym.errors import UnknownNameError
from eto_gym.history import Exchange
from eto_gym.prompt import with_reason, without_reason

ROOM = (
    "Looking quickly around you, you see a desk 1, a fridge 1, a microwave 1, and a shelf 1.\n\n"
    "Your task is to: find a mug."
)


def alf(action: str, *before: tuple[str, str]) -> str:
    seen = [Exchange(*step) for step in before]
    return alfworld.explain(action, "Nothing happens.", ROOM, seen, verb="put")


AT_SHELF = ("go to shelf 1", "On the shelf 1, you see a mug 1.")
HOLDS = ("take mug 1 from shelf 1", "You pick up the mug 1 from the shelf 1.")
AT_FRIDGE = ("go to fridge 1", "The fridge 1 is closed.")
CASES: list[tuple[str, tuple[tuple[str, str], ...], str]] = [
    ("dance", (), "'dance' is no action here. The actions are: go to X, take X from Y, put X"),
    ("move mug 1 to shelf 1", (), "is no action here"),
    ("go to shelf 9", (), "You have seen no shelf 9 here. There is: shelf 1"),
    ("go to shelf 1", (AT_SHELF,), "You are at shelf 1 already."),
    ("take mug 1 from shelf 1", (), "You are not at shelf 1: go to shelf 1 first."),
    ("take cup 1 from shelf 1", (AT_SHELF,), "You have seen no cup 1 in or on shelf 1, but mug 1."),
    ("take mug 2 from shelf 1", (AT_SHELF, HOLDS), "You hold mug 1 already"),
    ("take egg 1 from fridge 1", (AT_FRIDGE,), "The fridge 1 is closed: open it first."),
    ("put mug 1 in/on fridge 1", (AT_SHELF, HOLDS, AT_FRIDGE), "The fridge 1 is closed"),
    ("put mug 1 in/on shelf 1", (AT_SHELF,), "You do not hold mug 1. You hold nothing."),
    ("heat mug 1 with fridge 1", (AT_SHELF, HOLDS, AT_FRIDGE), "that takes a microwave"),
    ("open shelf 1", (AT_SHELF,), "The shelf 1 is nothing that one can open."),
    ("close fridge 1", (AT_FRIDGE,), "The fridge 1 is closed already."),
    ("use lamp 1", (AT_SHELF,), "You have seen no lamp 1 at shelf 1"),
]


@pytest.mark.parametrize(("action", "before", "why"), CASES)
def test_alfworld_says_why(action: str, before: tuple[tuple[str, str], ...], why: str) -> None:
    assert why in alf(action, *before)


def test_what_did_something_needs_no_reason() -> None:
    assert alfworld.explain("look", "You are at shelf 1.", ROOM, (), verb="put") == ""
    assert scienceworld.explain("wait", "You decide to wait.", "", ()) == ""
    assert webshop.explain("click[Red]", ["click[red]"]) == ""
    assert webshop.explain("search[shoes]", []) == ""


def test_webshop_and_scienceworld_say_why() -> None:
    assert "no 'green' to click. It has: 'red'" in webshop.explain("click[green]", ["click[red]"])
    assert "The actions are: search[words]" in webshop.explain("buy it", [])
    no = "No known action matches that input."
    first = "Your task is to boil water.\nThis room is called the hall. In it, you see:\n\ta door\n"
    assert "is no action. The actions are: open X" in scienceworld.explain("jump", no, first, ())
    assert "seen no kettle so far" in scienceworld.explain("open kettle", no, first, ())
    assert "in the hall" in scienceworld.explain("eat door", no, first, ())


def test_reasons_are_made_of_what_was_seen_alone() -> None:
    """They are functions of texts: no environment, and so nothing hidden, is within reach."""
    for module in (alfworld, scienceworld, webshop):
        names = set(inspect.signature(module.explain).parameters)
        assert names <= {"action", "observation", "first", "seen", "verb", "offered"}
    for text in ("x" * 10**6, "take " + "a from " * 10**5, "click[" * 10**5, "[" * 10**6):
        assert len(alf(text)) < 1000
        assert len(webshop.explain(text, ["click[red]"])) < 1000
        assert len(scienceworld.explain(text, "No known action matches that input.", "", ())) < 1000


@pytest.mark.parametrize(
    ("env_id", "action"),
    [("ETO/ALFWorld-v0", "go to nowhere 1"), ("ETO/WebShop-v0", "click[nothing of this kind]")],
)
def test_it_is_off_by_default_and_changes_only_answers(env_id: str, action: str) -> None:
    plain: Any = gym.make(env_id)
    helpful: Any = gym.make(env_id, feedback="helpful")
    assert "feedback" not in plain.unwrapped.card()
    assert helpful.unwrapped.card() == {**plain.unwrapped.card(), "feedback": "helpful"}
    for env in (plain, helpful):
        env.reset(seed=3)
    before, after = plain.step(action), helpful.step(action)
    assert "(Why: " in after[0]
    assert without_reason(after[0]) == before[0]
    assert after[1:] == before[1:]
    assert with_reason(before[0], "") == before[0]
    state = eto_gym.get_state(helpful)
    again, twin = helpful.step(action)[0], gym.make(env_id, feedback="helpful")
    twin.reset(seed=0)
    eto_gym.set_state(twin, state)
    assert twin.step(action)[0] == again
    with pytest.raises(UnknownNameError, match="feedback"):
        gym.make(env_id, feedback="loud")
    for env in (plain, helpful, twin):
        env.close()


@pytest.mark.parametrize("env_id", ["ETO/ALFWorld-v0", "ETO/WebShop-v0"])
def test_the_state_block_is_the_same_with_it(env_id: str) -> None:
    blocks = []
    for feedback in ("plain", "helpful"):
        env = ConversationEnv(gym.make(env_id, feedback=feedback), history="state")
        env.reset(seed=1)
        for action in ("search[shoes]", "look", "click[nowhere]"):
            env.step(f"Action: {action}")
        blocks.append(env.states)
        env.close()
    assert blocks[0] == blocks[1]
    assert any(blocks[0])
