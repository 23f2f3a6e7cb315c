from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from eto_gym import EtoGymError, UnknownNameError
from eto_gym.agents.sb3 import Candidates, CandidatesEnv, EmbeddedText, HashedText
from tests.toy import CorridorEnv, make_corridor

RNG = np.random.default_rng(0)
IDS = ["ETO/ALFWorld-v0", "ETO/WebShop-v0", "ETO/ScienceWorld-v0"]


def make(**options: Any) -> CandidatesEnv:
    return CandidatesEnv(make_corridor(admissible_actions=True), **options)


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize(
    "features", [HashedText(dim=32), EmbeddedText(lambda t: [[1, 2]] * len(t))]
)
def test_sb3_accepts_every_environment(env_id: str, features: Any) -> None:
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    kwargs: dict[str, Any] = {}
    if "Science" in env_id:
        pytest.importorskip("scienceworld")
        if isinstance(features, EmbeddedText):
            pytest.skip("the engine is slow, and the features do not depend on it")
        kwargs = {"lanes": 1}
    env = CandidatesEnv(
        gym.make(env_id, admissible_actions=True, **kwargs), features=features, overflow="sample"
    )
    try:
        checker.check_env(env)
    finally:
        env.close()


def test_observation_describes_task_last_answer_and_candidates() -> None:
    hashed = HashedText(dim=64)
    env = make(features=hashed, max_candidates=4)
    seen, info = env.reset(seed=0, options={"task": 2})
    first = "You are at door 0.\nYour task is to: open door 2."
    assert info["candidates"] == ["go", "open"]
    assert seen["mask"].tolist() == [1, 1, 0, 0]
    np.testing.assert_array_equal(seen["task"], hashed([first])[0])
    rows = seen["candidates"].reshape(4, 64)
    np.testing.assert_array_equal(rows, np.vstack([hashed(["go", "open"]), np.zeros((2, 64))]))
    assert not seen["history"].any()
    seen, _, _, _, info = env.step(0)
    np.testing.assert_array_equal(seen["task"], hashed([first])[0])
    np.testing.assert_array_equal(seen["observation"], hashed(["You are at door 1."])[0])
    np.testing.assert_array_equal(seen["history"], hashed(["go"])[0])
    assert seen["taken"].tolist() == [1, 0, 0, 0]
    env.step(0)
    seen, *_ = env.step(0)
    assert env.choices.actions == ["open"]
    assert seen["taken"].tolist() == [0, 0, 0, 0]
    np.testing.assert_array_equal(seen["history"], hashed(["go go go"])[0])
    _, reward, terminated, *_ = env.step(0)
    assert (reward, terminated) == (-0.5, True)


def test_an_episode_leaves_nothing_to_the_next() -> None:
    env = make()
    fresh, _ = env.reset(seed=1)
    for _ in range(3):
        env.step(0)
    again, _ = env.reset(seed=1)
    assert all((fresh[key] == again[key]).all() for key in fresh)


def test_a_padded_place_costs_a_step() -> None:
    env = make(max_candidates=5)
    env.reset(seed=0)
    _, reward, terminated, truncated, info = env.step(4)
    assert (reward, terminated, truncated, info["invalid_choice"]) == (0.0, False, False, True)
    assert env.step(0)[4]["invalid_choice"] is False
    assert env.unwrapped.position == 1  # type: ignore[attr-defined]
    with pytest.raises(EtoGymError, match=r"place in 0\.\.4"):
        env.step(5)


def test_nothing_admissible_leaves_the_empty_action() -> None:
    state = Candidates(max_candidates=3)
    state.begin("dead end", {"admissible_actions": []}, RNG)
    assert state.actions == [""]
    assert state.arrays(state.features(state.texts()))["mask"].tolist() == [1, 0, 0]


def test_more_actions_than_places() -> None:
    info = {"admissible_actions": [f"go {i}" for i in range(100)]}
    strict = Candidates(max_candidates=10)
    with pytest.raises(EtoGymError, match="100 actions are admissible and max_candidates is 10"):
        strict.begin("", info, RNG)
    state = Candidates(max_candidates=10, overflow="sample")
    seen: set[str] = set()
    rng = np.random.default_rng(5)
    for _ in range(200):
        state.begin("", info, rng)
        assert (len(set(state.actions)), state.dropped) == (10, 90)
        assert state.actions == sorted(state.actions, key=lambda a: int(a.split()[1]))
        seen.update(state.actions)
    assert len(seen) == 100, "an action is never offered"
    state.begin("", {"admissible_actions": ["go 1"]}, rng)
    assert state.dropped == 0


def test_sampled_candidates_depend_on_the_seed() -> None:
    class Crowded(CorridorEnv):
        def _admissible_actions(self) -> list[str]:
            return sorted(f"say {i}" for i in range(50))

    def offered(seed: int) -> list[list[str]]:
        env = CandidatesEnv(Crowded(admissible_actions=True), max_candidates=5, overflow="sample")
        lists = [env.reset(seed=seed)[1]["candidates"]]
        return [*lists, *(env.step(0)[4]["candidates"] for _ in range(3))]

    assert offered(3) == offered(3) != offered(4)


def test_the_shop_is_searched_for_what_is_wanted() -> None:
    env = CandidatesEnv(gym.make("ETO/WebShop-v0", admissible_actions=True))
    _, info = env.reset(seed=0)
    (search,) = info["candidates"]
    assert search.startswith("search[find me")
    assert "price" not in search
    *_, info = env.step(0)
    codes = [a for a in info["candidates"] if len(a) == len("click[]") + 10]
    products = [a for a in codes if a[6:-1] not in {"< prev", "next >"} and a[6] == "b"]
    assert len(products) >= 5, "the search finds nothing"
    described = env.choices.texts()[3:]
    assert len(set(described)) == len(described)
    first = described[info["candidates"].index(products[0])]
    assert first.startswith(products[0] + " ")
    assert "$" in first
    env.close()


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(EtoGymError, match="admissible_actions=True"):
        CandidatesEnv(make_corridor()).reset()
    with pytest.raises(ValueError, match="at least 1"):
        Candidates(max_candidates=0)
    with pytest.raises(UnknownNameError, match="sample"):
        Candidates(overflow="smaple")  # type: ignore[arg-type]
