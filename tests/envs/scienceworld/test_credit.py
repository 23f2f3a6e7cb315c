"""State keys and steps to go on the real engine."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import pytest

from eto_gym.env import text_env
from eto_gym.envs.scienceworld.credit import _starts
from eto_gym.envs.scienceworld.session import EngineSession

TASK = "find-non-living-thing/0"


@pytest.fixture(scope="module")
def pair(warm_lane: EngineSession) -> Any:
    envs = [gym.make("ETO/ScienceWorld-v0", shortcuts=True, lanes=1) for _ in range(2)]
    yield envs
    for env in envs:
        env.close()


def test_the_solution_is_counted_down_and_found_again_after_a_detour(pair: Any) -> None:
    env, _ = pair
    env.reset(options={"task": TASK})
    inner = text_env(env)
    actions = inner.make_expert().solution.actions  # type: ignore[attr-defined]
    whole = len(actions)
    assert inner.cost_to_go() == whole
    env.step(actions[0])
    assert inner.cost_to_go() == whole - 1
    env.step("open fridge")
    assert inner.cost_to_go() == whole - 1, "the rest of the solution still works"
    env.step("teleport to outside")
    assert inner.cost_to_go() == whole, "back to where the solution has to begin again"
    for action in actions:
        *_, terminated, _, info = env.step(action)
    assert terminated
    assert info["success"]
    assert inner.cost_to_go() == 0
    assert inner.milestones() == 1.0


def test_keys_are_those_of_the_world_and_not_of_the_way_there(pair: Any) -> None:
    one, two = pair
    one.reset(options={"task": "find-animal/0"})
    two.reset(options={"task": TASK})
    two.step("open cupboard")
    two.reset(options={"task": "find-animal/0"})
    a, b = text_env(one), text_env(two)
    assert a.state_key() == b.state_key(), "what an engine played before does not count"
    one.step("look around")
    two.step("inventory")
    assert a.state_key() == b.state_key()
    two.step("pick up orange")
    assert a.state_key() != b.state_key()


def test_a_lost_task_has_no_steps_to_go(pair: Any) -> None:
    env, _ = pair
    env.reset(options={"task": "find-animal/0"})
    _, _, terminated, _, info = env.step("focus on agent")
    if not terminated:
        pytest.skip("the engine took the focus for something else")
    assert info["score"] < 0
    assert text_env(env).cost_to_go() is None
    assert text_env(env).milestones() < 1.0


def test_where_a_solution_may_go_on() -> None:
    gold = ("teleport to kitchen", "look around", "pick up cup", "teleport to hallway", "focus")
    assert _starts(gold, ()) == [0]
    assert _starts(gold, ("look around",)) == [0]
    assert _starts(gold, ("teleport to kitchen", "wait", "look around")) == [2, 0]
    assert _starts(gold, gold[:4]) == [4, 3, 0]
