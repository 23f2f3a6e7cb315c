"""Every way of making a vector environment plays as single environments do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import eto_gym
from eto_gym.vector import TextVectorEnv
from tests.toy import CORRIDOR
from tests.vector.support import drive, drive_singles, same

QUICK = [name for name in eto_gym.registered_ids() if "ScienceWorld" not in name]
SCIENCE = "ETO/ScienceWorld-v0"
PROCESS: dict[str, Any] = {"vectorization": "process", "workers": 1}


def play_all_ways(env_id: str, *, count: int, steps: int, **kwargs: Any) -> None:
    singles = drive_singles([gym.make(env_id, **kwargs) for _ in range(count)], steps=steps, seed=5)
    records = {}
    for mode in (None, "sync", "async"):
        vec = gym.make_vec(env_id, num_envs=count, vectorization_mode=mode, **kwargs)
        assert isinstance(vec, TextVectorEnv) == (mode is None)
        records[str(mode)] = drive(vec, steps=steps, seed=5)
        vec.close()
    vec = gym.make_vec(env_id, num_envs=count, **PROCESS, **kwargs)
    records["process"] = drive(vec, steps=steps, seed=5)
    vec.close()
    texts = [list(slot) for slot in zip(*(step[0] for step in records["sync"]), strict=True)]
    assert texts == singles
    assert len({text for own in singles for text in own}) >= steps // 2, "the play is dull"
    for mode, record in records.items():
        assert same(record, records["sync"]), mode


@pytest.mark.parametrize("env_id", QUICK)
def test_every_mode_equals_single_environments(env_id: str) -> None:
    play_all_ways(env_id, count=3, steps=25, max_episode_steps=9, admissible_actions=True)


@pytest.mark.slow
@pytest.mark.usefixtures("warm_lane")
def test_every_mode_equals_single_environments_with_scienceworld() -> None:
    play_all_ways(SCIENCE, count=2, steps=5, max_episode_steps=4, lanes=1)


def test_every_id_has_a_vector_entry_point() -> None:
    for env_id in eto_gym.registered_ids():
        vec = gym.make_vec(env_id, num_envs=1, vectorization_mode="vector_entry_point")
        assert isinstance(vec, TextVectorEnv)
        vec.close()


@pytest.mark.usefixtures("warm_lane")
def test_two_lanes_of_scienceworld_play_as_one() -> None:
    records = []
    for lanes in (1, 2):
        vec = gym.make_vec(SCIENCE, num_envs=3, lanes=lanes)
        assert isinstance(vec, TextVectorEnv)
        vec.reset(seed=1, options={"task": ["boil/0", "boil/1", "find-animal/0"]})
        assert len({env.unwrapped.lane() for env in vec.envs}) == lanes  # type: ignore[attr-defined]
        records.append([vec.step(("look around", "inventory", "wait")) for _ in range(2)])
        vec.close()
    assert same(records[0], records[1])


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("env_id", [CORRIDOR, "ETO/WebShop-v0"])
def test_autoreset_modes_equal_those_of_gymnasium(env_id: str, mode: AutoresetMode) -> None:
    kwargs: dict[str, Any] = {"admissible_actions": True, "max_episode_steps": 4}
    sync = gym.make_vec(
        env_id,
        num_envs=4,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": mode},
        **kwargs,
    )
    expected = drive(sync, steps=30, seed=3)
    sync.close()
    if mode is AutoresetMode.SAME_STEP:
        assert any("final_obs" in step[-1] for step in expected)
    ways: list[dict[str, Any]] = [{}]
    if env_id == CORRIDOR:
        ways.append({"vectorization": "process", "workers": 2})
    for way in ways:
        vec = TextVectorEnv(env_id, 4, autoreset_mode=mode.value, **way, **kwargs)
        assert same(drive(vec, steps=30, seed=3), expected)
        vec.close()


def test_reset_mask_clears_the_pending_autoreset() -> None:
    records = []
    for vec in (
        gym.make_vec(CORRIDOR, num_envs=2, vectorization_mode="sync"),
        gym.make_vec(CORRIDOR, num_envs=2, vectorization_mode="async"),
        TextVectorEnv(CORRIDOR, 2),
    ):
        record: list[Any] = [vec.reset(seed=1)]
        record.append(vec.step(("open", "open")))
        record.append(vec.reset(seed=4, options={"reset_mask": np.array([False, True])}))
        record.append(vec.step(("go", "go")))
        records.append(record)
        vec.close()
    assert same(records[0], records[1])
    assert same(records[0], records[2])
    assert records[0][3][0][1] == "You are at door 1."


@pytest.mark.parametrize("length", [0, 100, 40_000])
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_shared_memory_holds_texts_of_any_length(
    length: int, context: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if context == "spawn" and length == 100:
        return
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    vec = gym.make_vec(
        "tests.vector.test_equality:Echo-v0",
        num_envs=2,
        vectorization_mode="async",
        vector_kwargs={"context": context},
    )
    vec.reset()
    texts = tuple(text * length for text in ("é", "\ud800x"))
    first = vec.step(texts)[0]
    assert first == texts
    assert vec.step(("a", ""))[0] == ("a", "")
    assert first == texts, "an observation that was returned does not change"
    vec.close()
    del vec
    assert not list(tmp_path.glob("eto-gym-texts*"))


class EchoEnv(gym.Env[str, str]):
    """Says what it hears."""

    def __init__(self, **kwargs: Any) -> None:
        self.observation_space = self.action_space = eto_gym.UnicodeText()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        return "", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return action, 0.0, False, False, {}


gym.register("Echo-v0", entry_point=EchoEnv)
