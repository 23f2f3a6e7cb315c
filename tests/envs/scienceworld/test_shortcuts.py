"""Plans of our own for the short tasks, the part of a split, and the player that roams."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import pytest

from eto_gym import EtoGymError

SHORT = ["find-animal", "find-non-living-thing"]


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    pytest.importorskip("scienceworld")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ETO_GYM_DATA", str(tmp_path_factory.mktemp("data")))
        made: Any = gym.make("ETO/ScienceWorld-v0", task_types=SHORT, shortcuts=True)
        yield made
        made.close()


def test_a_part_of_a_split_holds_the_tasks_of_these_names(env: Any) -> None:
    tasks = env.unwrapped.task_set
    assert {task.type for task in tasks} == set(SHORT)
    assert len(tasks) == 300
    assert env.unwrapped.card()["task_types"] == SHORT
    with pytest.raises(EtoGymError, match="Did you mean 'find-animal'"):
        gym.make("ETO/ScienceWorld-v0", task_types=["find-animals"])


@pytest.mark.parametrize("name", SHORT)
def test_a_shortcut_solves_the_task_from_its_start(env: Any, name: str) -> None:
    task = next(task.id for task in env.unwrapped.task_set if task.type == name)
    observation, info = env.reset(options={"task": task})
    expert = env.unwrapped.make_expert()
    assert expert.solution.source == "shortcut"
    earned, terminated = 0.0, False
    while (reply := expert.act(observation, info)) is not None:
        observation, reward, terminated, _, info = env.step(reply.action)
        earned += reward
    assert terminated
    assert info["success"]
    assert earned == pytest.approx(1.0)


def test_the_player_handles_what_it_sees_and_needs_no_list(env: Any) -> None:
    def roam(seed: int) -> tuple[list[str], list[str]]:
        observation, info = env.reset(options={"task": 0})
        assert "admissible_actions" not in info
        player = env.unwrapped.make_player(seed)
        actions, answers = [], []
        for _ in range(12):
            reply = player.act(observation, info)
            observation, _, terminated, truncated, info = env.step(reply.action)
            actions.append(reply.action)
            answers.append(observation)
            if terminated or truncated:
                break
        return actions, answers

    first = roam(1)
    assert roam(1) == first
    assert roam(2)[0] != first[0]
    assert not any("No known action" in answer for answer in first[1])
    assert not any("Unknown action" in answer for answer in first[1])
