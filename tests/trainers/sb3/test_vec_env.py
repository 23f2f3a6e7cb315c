from __future__ import annotations

import functools
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")

from stable_baselines3.common.vec_env import DummyVecEnv

from eto_gym.agents.sb3.candidates import CandidatesEnv
from eto_gym.agents.sb3.features import HashedText
from eto_gym.agents.sb3.networks import (
    MASKED,
    CandidateDQNPolicy,
    MaskableCandidatePolicy,
    MaskedDQN,
)
from eto_gym.trainers.sb3.vec_env import CandidatesVecEnv
from tests.toy import make_corridor
from tests.vector.support import make_fragile

FEATURES = HashedText(dim=16)
make_text = functools.partial(make_corridor, admissible_actions=True)


def make_one() -> Any:
    return CandidatesEnv(make_text(), features=FEATURES, max_candidates=5)


def make_vec(count: int = 3) -> CandidatesVecEnv:
    return CandidatesVecEnv([make_text] * count, features=FEATURES, max_candidates=5)


def test_equal_to_sb3s_own_vector_of_wrapped_environments() -> None:
    ours, theirs = make_vec(), DummyVecEnv([make_one] * 3)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    draw = np.random.default_rng(2)
    for env in (ours, theirs):
        env.seed(7)
    seen: Any = ours.reset()
    expected: Any = theirs.reset()
    ends = 0
    for _ in range(60):
        for key, value in expected.items():
            np.testing.assert_array_equal(seen[key], value)
            assert seen[key].dtype == value.dtype
        places = draw.integers(0, 3, size=3)  # padding now and then
        seen, rewards, dones, infos = ours.step(places)
        expected, *others = theirs.step(places)
        np.testing.assert_array_equal(rewards, others[0])
        np.testing.assert_array_equal(dones, others[1])
        for i in np.flatnonzero(dones):
            ends += 1
            mine, its = infos[i], cast("Any", others[2])[i]
            assert mine["is_success"] == its["success"]
            assert mine["TimeLimit.truncated"] == its["TimeLimit.truncated"]
            assert mine["episode"]["l"] >= 1
            for key, value in its["terminal_observation"].items():
                np.testing.assert_array_equal(mine["terminal_observation"][key], value)
    assert ends > 10
    ours.close()


def test_returns_and_lengths_are_the_episodes_own() -> None:
    env = make_vec(1)
    env.seed(0)
    env.reset()
    told, rewards = [], []
    for place in [0, 0, 0, 0, 1, 0, 1]:
        _, reward, done, infos = env.step(np.array([place]))
        rewards.append(float(reward[0]))
        if done[0]:
            told.append((infos[0]["episode"]["l"], infos[0]["episode"]["r"]))
    assert [length for length, _ in told] == [4, 1, 2]
    assert [r for _, r in told] == [sum(rewards[:4]), rewards[4], sum(rewards[5:7])]


def test_worker_processes_play_the_same_and_may_die() -> None:
    options: dict[str, Any] = {"features": FEATURES, "max_candidates": 5}
    makers = [functools.partial(make_fragile, split=name) for name in ("a", "b", "c")]
    local = CandidatesVecEnv(makers, **options)
    remote = CandidatesVecEnv(makers, workers=2, **options)
    draw = np.random.default_rng(3)
    for env in (local, remote):
        env.set_options({"task": "door-1/1"})
        env.seed(1)
    seen, expected = observation(remote), observation(local)
    assert remote.env_method("card")[2]["split"] == "c"
    for _ in range(20):
        for key, value in expected.items():
            np.testing.assert_array_equal(seen[key], value)
        places = draw.integers(0, 2, size=3)
        seen, *rest = remote.step(places)  # type: ignore[assignment]
        expected, *others = local.step(places)  # type: ignore[assignment]
        np.testing.assert_array_equal(rest[0], others[0])
        np.testing.assert_array_equal(rest[1], others[1])
    before = remote.env_method("pid")
    remote.states[1].actions[0] = "die"  # which takes the third with it
    lengths = remote._lengths.copy()
    after, _, dones, infos = remote.step(np.zeros(3, int))
    assert isinstance(after, dict)
    assert dones.tolist()[1:] == [True, True]
    assert [info.get("error") for info in infos[1:]] == ["environment", "worker"]
    for i in (1, 2):
        assert infos[i]["TimeLimit.truncated"]
        assert not infos[i]["is_success"]
        assert infos[i]["episode"]["l"] == lengths[i] + 1
        assert infos[i]["terminal_observation"].keys() == after.keys()
        assert after["mask"][i].sum() == 2, "the next episode has begun"
    assert remote.env_method("pid")[0] == before[0]
    assert remote.env_method("pid")[1] != before[1]
    local.close()
    remote.close()


def test_reaching_into_the_environments() -> None:
    env = make_vec(2)
    env.set_options({"task": 3})
    env.reset()
    assert [info["task_id"] for info in env.reset_infos] == ["door-3/3"] * 2
    assert env.get_attr("position") == [0, 0]
    env.set_attr("position", 2, indices=1)
    assert env.get_attr("position") == [0, 2]
    assert env.env_method("card", indices=[0])[0]["benchmark"] == "corridor"
    assert env.env_is_wrapped(gym.wrappers.TimeLimit) == [True, True]
    assert env.env_is_wrapped(CandidatesEnv) == [False, False]
    shared = make_text()
    with pytest.raises(ValueError, match="twice"):
        CandidatesVecEnv([lambda: shared] * 2)


def observation(env: CandidatesVecEnv) -> dict[str, Any]:
    seen = env.reset()
    assert isinstance(seen, dict)
    return seen


@pytest.mark.parametrize("kind", [MaskableCandidatePolicy, CandidateDQNPolicy])
def test_masked_places_are_never_chosen_and_places_do_not_matter(kind: Any) -> None:
    import torch

    env = make_vec(1)
    policy = kind(env.observation_space, env.action_space, lambda _: 1e-3)
    seen = observation(env)
    random_order = np.array([4, 1, 3, 0, 2])
    turned = {
        **seen,
        "mask": seen["mask"][:, random_order],
        "taken": seen["taken"][:, random_order],
    }
    turned["candidates"] = seen["candidates"].reshape(1, 5, -1)[:, random_order].reshape(1, -1)

    def scores(of: dict[str, Any]) -> Any:
        tensors, _ = policy.obs_to_tensor(of)
        with torch.no_grad():
            if kind is CandidateDQNPolicy:
                return policy.q_net(tensors).numpy()[0]
            return policy.get_distribution(tensors).distribution.probs.numpy()[0]

    plain = scores(seen)
    np.testing.assert_allclose(scores(turned), plain[random_order], rtol=1e-5)
    if kind is CandidateDQNPolicy:
        assert (plain[2:] < MASKED / 2).all()
    else:
        assert plain[2:].tolist() == [0.0, 0.0, 0.0]
        assert plain.sum() == pytest.approx(1.0)
    assert {int(policy.predict(seen, deterministic=d)[0][0]) for d in [True] + [False] * 50} <= {
        0,
        1,
    }


def test_dqn_explores_candidates_only_and_uniformly() -> None:
    env = make_vec(4)
    model = MaskedDQN(CandidateDQNPolicy, env, seed=0, learning_starts=10**6, buffer_size=8)
    mask = np.array([[1, 1, 0, 0, 0], [0, 0, 1, 0, 1], [1, 1, 1, 1, 1], [0, 0, 0, 1, 0]])
    drawn = np.array([model._draw(mask) for _ in range(4000)])
    for column, row in zip(drawn.T, mask, strict=True):
        counts = np.bincount(column, minlength=5)
        assert set(np.flatnonzero(counts)) == set(np.flatnonzero(row))
        np.testing.assert_allclose(counts[row > 0] / 4000, 1 / row.sum(), atol=0.04)
    model._last_obs = observation(env)
    warm_up = {int(p) for _ in range(50) for p in model._sample_action(10**6, n_envs=4)[0]}
    assert warm_up == {0, 1}
    model.exploration_rate = 1.0
    explored = np.array([model.predict(model._last_obs)[0] for _ in range(50)])
    assert set(explored.ravel()) == {0, 1}
    assert (explored != explored[:, :1]).any(), "the environments share one draw"
    best = model.predict(model._last_obs, deterministic=True)[0]
    model.exploration_rate = 0.0
    assert (model.predict(model._last_obs)[0] == best).all()


def test_other_policies_of_sb3_can_train_on_it() -> None:
    from stable_baselines3 import A2C

    model = A2C("MultiInputPolicy", make_vec(2), n_steps=4, device="cpu", seed=0).learn(16)
    assert model.num_timesteps == 16


def test_masks_are_those_of_the_observations() -> None:
    alone, many = make_one(), make_vec()
    observation, _ = alone.reset(seed=0)
    np.testing.assert_array_equal(alone.action_masks(), observation["mask"] == 1)
    many.seed(0)
    stacked = cast(dict[str, Any], many.reset())
    assert many.has_attr("action_masks")
    assert not many.has_attr("no_such_attribute")
    np.testing.assert_array_equal(np.stack(many.env_method("action_masks")), stacked["mask"] == 1)
    np.testing.assert_array_equal(many.env_method("action_masks", indices=1)[0], stacked["mask"][1])


@pytest.mark.parametrize("policy", ["MultiInputPolicy", MaskableCandidatePolicy])
@pytest.mark.parametrize("make", [make_one, make_vec])
def test_maskable_ppo_takes_only_candidates(make: Any, policy: Any) -> None:
    from sb3_contrib import MaskablePPO

    env = make()
    model: Any = MaskablePPO(policy, env, n_steps=16, batch_size=16, seed=0)
    model.learn(64)
    invalid = [info["invalid_choice"] for info in model.ep_info_buffer if "invalid_choice" in info]
    assert not any(invalid)
    vec = model.get_env()
    observation = vec.reset()
    for _ in range(20):
        masks = np.stack(vec.env_method("action_masks"))
        actions, _ = model.predict(observation, action_masks=masks)
        assert all(mask[action] for mask, action in zip(masks, actions, strict=True))
        observation, *_ = vec.step(actions)


def test_masks_that_are_given_or_not_make_one_distribution() -> None:
    import torch

    env = make_vec(2)
    policy = MaskableCandidatePolicy(env.observation_space, env.action_space, lambda _: 1e-3)
    tensors, _ = policy.obs_to_tensor(observation(env))
    masks = np.stack(env.env_method("action_masks"))
    with torch.no_grad():
        told: Any = policy.get_distribution(tensors, action_masks=masks).distribution
        untold: Any = policy.get_distribution(tensors).distribution
    torch.testing.assert_close(told.probs, untold.probs)
    torch.testing.assert_close(told.entropy(), untold.entropy())
    assert (told.probs[~torch.as_tensor(masks)] == 0).all()


def test_what_is_gone_names_what_replaces_it() -> None:
    with pytest.raises(ImportError, match="MaskableCandidatePolicy, and MaskablePPO"):
        from eto_gym.agents.sb3.networks import CandidateActorCriticPolicy  # noqa: F401
