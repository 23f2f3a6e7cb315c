from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eto_gym.envs.scienceworld import ScienceWorldEnv
from eto_gym.envs.scienceworld.expert import (
    ScienceWorldExpert,
    Solution,
    cache_file,
    collapse,
    solve,
)
from eto_gym.envs.scienceworld.session import EngineSession
from eto_gym.envs.scienceworld.thoughts import goal_of, think

LANE = {"lanes": 1}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ETO_GYM_DATA", str(tmp_path))
    return tmp_path


STEPS = (
    "look around",
    "go to kitchen",
    "go to hallway",
    "open door to kitchen",
    "wait",
    "open jar",
)


@given(st.lists(st.sampled_from(STEPS)))
def test_collapsing_keeps_all_that_is_not_walking(gold: list[str]) -> None:
    def essence(actions: list[str]) -> list[str]:
        return [a for a in actions if a in {"wait", "open jar"}]

    short = collapse(gold)
    assert essence(short) == essence(gold)
    assert len(short) <= len(gold)
    assert not any(action.startswith("go to") for action in short)
    assert collapse(short) in (short, short[1:])  # nothing is left to collapse


def test_collapsing_keeps_the_last_place_of_a_walk() -> None:
    walk = ["go to a", "look around", "open door to b", "go to b", "wait", "go to c", "look around"]
    assert collapse(walk) == ["teleport to b", "wait", "teleport to c", "look around"]


def test_the_expert_solves_and_its_path_is_kept(
    warm_lane: EngineSession, caplog: pytest.LogCaptureFixture
) -> None:
    env = ScienceWorldEnv(lanes=1)
    task = "find-non-living-thing/3"
    observation, info = env.reset(options={"task": task})
    expert = env.make_expert()
    path = cache_file(task, "easy")
    assert json.loads(path.read_text())["actions"] == list(expert.solution.actions)
    thoughts = []
    while (reply := expert.act(observation, info)) is not None:
        thoughts.append(reply.thought)
        observation, _, terminated, _, info = env.step(reply.action)
    assert (info["score"], terminated) == (1.0, True)
    assert thoughts[0].startswith("My task is to find a(n) non-living thing.")
    assert all(thought.endswith(".") for thought in thoughts)

    path.write_text(path.read_text().replace("easy", "").replace("teleport to", "walk to"))
    assert solve(task, "easy", LANE).actions[0].startswith("walk to")  # the file is believed
    path.write_text("{damaged")
    with caplog.at_level(logging.WARNING):
        assert solve(task, "easy", LANE).actions == expert.solution.actions
    assert "damaged" in caplog.text
    assert json.loads(path.read_text())["source"] == expert.solution.source
    env.close()


def test_gold_paths_do_not_depend_on_what_was_played(session: EngineSession) -> None:
    """Also where the path searches all rooms, which the engine remembers between tasks."""
    task, variation = "chemistry-mix", 20
    alone = EngineSession(isolation="process")
    try:
        expected = alone.gold_path(task, variation, "easy")
    finally:
        alone.close()
    session.gold_path("melt", 3, "easy")
    session.load("grow-plant", 2, "easy")
    session.step("wait")
    assert session.gold_path(task, variation, "easy") == expected
    assert session.gold_path(task, variation, "easy") == expected


def test_a_gold_path_leaves_nothing_behind(session: EngineSession) -> None:
    session.load("melt", 3, "easy")
    before = session.step("look around")
    session.gold_path("melt", 4, "easy")
    session.load("melt", 3, "easy")
    assert session.step("look around") == before


def test_without_teleporting_the_gold_path_is_kept(warm_lane: EngineSession) -> None:
    solution = solve("find-non-living-thing/3", "", LANE)
    assert solution.source == "gold"
    assert not any("teleport" in action for action in solution.actions)


def test_the_expert_goes_on_from_its_own_path_only() -> None:
    solution = Solution("t/0", ("a", "b", "c"), "gold")
    follower = ScienceWorldExpert(solution, taken=("a",))
    replies = [follower.act("", {}), follower.act("", {}), follower.act("", {})]
    assert [reply.action if reply else None for reply in replies] == ["b", "c", None]
    assert ScienceWorldExpert(solution, taken=("x",)).act("", {}) is None
    assert ScienceWorldExpert(Solution("t/0", (), "none")).act("", {}) is None


def test_thoughts() -> None:
    first = "Task Description:\nYour task is to boil lead. First, focus on it.\nThis room is ..."
    assert goal_of(first) == "boil lead"
    actions = [
        "teleport to kitchen",
        "look around",
        "pick up thermometer",
        "use thermometer in inventory on lead",
        "use thermometer in inventory on lead",
        "examine lead",
        "wait",
    ]
    thoughts = [
        think(actions, 0, first),
        think(actions, 1, "You teleport to the kitchen."),
        think(actions, 2, "This room is called the kitchen."),
        think(actions, 3, "You move the thermometer to the inventory."),
        think(actions, 4, "the thermometer measures a temperature of 104 degrees celsius"),
        think(actions, 5, "the thermometer measures a temperature of 351.5 degrees celsius"),
        think(actions, 6, "a substance called liquid lead"),
    ]
    assert thoughts == [
        "My task is to boil lead. I need the thermometer, so I go to the kitchen.",
        "I look around to see what is here.",
        "I will need the thermometer, so I take it.",
        "I use the thermometer on the lead.",
        "The thermometer reads 104 degrees celsius. "
        "I use the thermometer on the lead once more to see how it changes.",
        "The thermometer reads 351.5 degrees celsius. I check the lead to see what state it is in.",
        "It has become liquid. This takes time, so I wait.",
    ]


@given(st.lists(st.text(max_size=30), min_size=1, max_size=6), st.text(max_size=60), st.data())
def test_thoughts_take_any_text(actions: list[str], observation: str, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(actions) - 1))
    assert think(actions, index, observation).strip()
