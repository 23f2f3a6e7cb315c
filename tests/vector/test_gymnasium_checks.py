"""What Gymnasium's own tests ask of its vector environments, asked of a `TextVectorEnv`.

The questions are those of the folders tests/vector and tests/envs/registration of Gymnasium 1.4;
docs/gymnasium.md lists the ones that have no meaning here.
"""

from __future__ import annotations

import copy
import functools
import gc
import pickle
import re
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError
from gymnasium.spaces import Tuple
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorObservationWrapper, VectorWrapper
from gymnasium.wrappers import DelayObservation, FrameStackObservation

from eto_gym import UnicodeText
from eto_gym.errors import EtoGymError
from eto_gym.vector import TextVectorEnv
from tests.toy import CORRIDOR, make_corridor
from tests.vector.support import FRAGILE

LIMIT = 5
make_text = functools.partial(make_corridor, max_episode_steps=LIMIT)


@pytest.fixture(scope="module", params=["local", "process"])
def vec(request: pytest.FixtureRequest) -> Iterator[TextVectorEnv]:
    way: dict[str, Any] = {"workers": 1} if request.param == "process" else {}
    made = TextVectorEnv(
        CORRIDOR, 4, vectorization=request.param, max_episode_steps=LIMIT, render_mode="ansi", **way
    )
    yield made
    made.close()


@pytest.fixture
def sync() -> Iterator[SyncVectorEnv]:
    made: SyncVectorEnv = SyncVectorEnv([make_text] * 4)
    yield made
    made.close()


def test_spaces_results_and_samples_are_those_of_sync(
    vec: TextVectorEnv, sync: SyncVectorEnv
) -> None:
    assert vec.num_envs == sync.num_envs
    for name in ("observation_space", "action_space"):
        assert getattr(vec, name) == getattr(sync, name)
        assert getattr(vec, f"single_{name}") == getattr(sync, f"single_{name}")
    assert isinstance(vec.observation_space, Tuple)
    assert isinstance(vec.single_observation_space, UnicodeText)
    for env in (vec, sync):
        env.action_space.seed(3)
    observations, infos = vec.reset(seed=0)
    expected, expected_infos = sync.reset(seed=0)
    assert observations == expected
    assert observations in vec.observation_space
    assert data_equivalence(infos, expected_infos)
    ends = 0
    for turn in range(2 * LIMIT + 3):
        actions = vec.action_space.sample()
        assert actions == sync.action_space.sample()
        assert actions in sync.action_space
        if turn % 2:  # a list, of actions that do something
            actions = [("go", "open")[(slot + turn) % 2] for slot in range(4)]
        observations, rewards, terminated, truncated, infos = vec.step(actions)
        expected, *others, expected_infos = sync.step(actions)
        assert observations == expected
        assert observations in vec.observation_space
        for mine, its in zip((rewards, terminated, truncated), others, strict=True):
            assert (mine.dtype, mine.shape) == (its.dtype, (4,))
            np.testing.assert_array_equal(mine, its)
        assert data_equivalence(infos, expected_infos)
        ends += int((terminated | truncated).sum())
    assert ends >= 4


def test_seeds_are_those_of_sync(vec: TextVectorEnv, sync: SyncVectorEnv) -> None:
    for env in (vec, sync):
        env.reset(seed=42)
        assert env.np_random_seed == (42, 43, 44, 45)
        env.reset(seed=None)
        assert env.np_random_seed == (42, 43, 44, 45)
        env.reset(seed=[9, 8, 7, 6])
        assert env.np_random_seed == (9, 8, 7, 6)
    assert [g.random() for g in vec.np_random] == [g.random() for g in sync.np_random]


def test_calls_and_attributes(vec: TextVectorEnv) -> None:
    vec.reset(seed=0)
    assert vec.call("card") == ({"benchmark": "corridor", "split": "train"},) * 4
    vec.set_attr("position", [3, 2, 1, 0])
    assert vec.get_attr("position") == vec.call("position") == (3, 2, 1, 0)
    with pytest.raises(ValueError, match="expected 4 values, got 2"):
        vec.set_attr("position", [1, 2])
    assert vec.render_mode == "ansi"
    frames = vec.render()
    assert isinstance(frames, tuple)
    assert [type(frame) for frame in frames] == [str] * 4


def test_as_many_actions_as_slots(vec: TextVectorEnv) -> None:
    vec.reset(seed=0)
    for wrong in (("go",) * 3, ("go",) * 5, ()):
        with pytest.raises(ValueError, match=f"expected 4 actions, got {len(wrong)}"):
            vec.step(wrong)
    for scalar in (0, "open", None, ("go", "go", "go", 1)):
        with pytest.raises(TypeError):
            vec.step(scalar)  # type: ignore[arg-type]
    assert len(vec.step(("go",) * 4)[0]) == 4, "a refused step changes nothing"
    assert vec.get_attr("position") == (1, 1, 1, 1)


def test_a_reset_of_some_repeats_them_and_leaves_the_others(vec: TextVectorEnv) -> None:
    first, _ = vec.reset(seed=[0, 1, 2, 3])
    vec.step(("go",) * 4)
    before = vec.step(("go",) * 4)[0]
    mask = np.array([True, True, False, False])
    after, _ = vec.reset(seed=[0, 1, 5, 5], options={"reset_mask": mask})
    assert after == (*first[:2], *before[2:])
    for shape in ((1,), (5,), (1, 4)):
        with pytest.raises(ValueError, match=re.escape(f"have shape (4,), got {shape}")):
            vec.reset(options={"reset_mask": np.ones(shape, np.bool_)})
    for numbers in (np.ones(4, np.int64), np.ones(4)):
        with pytest.raises(TypeError, match="array of booleans"):
            vec.reset(options={"reset_mask": numbers})


def test_metadata_is_the_vectors_own() -> None:
    with gym.make(CORRIDOR) as single:
        before = dict(single.metadata)
    made = [TextVectorEnv(CORRIDOR, 1, autoreset_mode=mode) for mode in AutoresetMode]
    assert [env.metadata["autoreset_mode"] for env in made] == list(AutoresetMode)
    for env in made:
        assert env.envs[0].metadata == before
        env.close()


def test_a_closed_vector_says_so() -> None:
    env = TextVectorEnv(CORRIDOR, 2)
    env.reset()
    env.close()
    env.close()
    with pytest.raises(ClosedEnvironmentError):
        env.reset()
    with pytest.raises(ClosedEnvironmentError):
        env.step(("go", "go"))


def test_spaces_that_differ_are_refused() -> None:
    def limited() -> gym.Env[str, str]:
        env = make_text()
        env.observation_space = UnicodeText(max_length=9)
        return env

    with pytest.raises(EtoGymError, match="equal spaces"):
        TextVectorEnv([make_text, limited], 2)
    with pytest.raises((RuntimeError, AssertionError), match="not equivalent"):
        SyncVectorEnv([make_text, limited])


def test_vector_wrappers_pass_on_what_they_do_not_change(vec: TextVectorEnv) -> None:
    class Shout(VectorObservationWrapper):
        def observations(self, observations: Any) -> Any:
            return tuple(map(str.upper, observations))

    wrapped = Shout(VectorWrapper(vec))
    plain, _ = vec.reset(seed=0)
    assert wrapped.reset(seed=0)[0] == tuple(map(str.upper, plain))
    assert wrapped.num_envs == 4
    assert wrapped.unwrapped is vec
    assert wrapped.metadata == vec.metadata
    assert wrapped.single_action_space == vec.single_action_space


@pytest.mark.parametrize("mode", [None, "sync", "async", "vector_entry_point"])
def test_make_vec_wraps_in_every_mode(mode: str | None) -> None:
    """By `wrappers` and `vector_kwargs` in Gymnasium's modes, by plain arguments in ours."""
    stack = functools.partial(FrameStackObservation, stack_size=2)
    delay = functools.partial(DelayObservation, delay=1)
    if mode in ("sync", "async"):
        extra: dict[str, Any] = {
            "wrappers": [delay, stack],
            "vector_kwargs": {"autoreset_mode": AutoresetMode.SAME_STEP},
        }
    else:
        extra = {"env_wrappers": [delay, stack], "autoreset_mode": "SameStep"}
    env = gym.make_vec("ETO/ALFWorld-v0", num_envs=3, vectorization_mode=mode, **extra)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    firsts = tuple(gym.make("ETO/ALFWorld-v0").reset(seed=5 + slot)[0] for slot in range(3))
    nothing = ("", "", "")
    observations, _ = env.reset(seed=5)
    assert observations == (nothing, nothing)
    assert observations in env.observation_space
    observations, *_ = env.step(("look",) * 3)
    assert observations == (nothing, firsts)  # of each place in the stack, one text per slot
    assert observations in env.observation_space
    env.close()


def test_a_lost_episode_has_the_zero_of_its_space() -> None:
    env = TextVectorEnv(
        FRAGILE, 2, env_wrappers=[functools.partial(FrameStackObservation, stack_size=2)]
    )
    env.reset(seed=0)
    observations, _, _, truncated, infos = env.step(("raise", "go"))
    assert [texts[0] for texts in observations] == ["", ""]
    assert observations in env.observation_space
    assert truncated.tolist() == [True, False]
    assert infos["error"][0] == "environment"
    env.close()


def test_a_vector_is_not_copied_and_plays_on(vec: TextVectorEnv) -> None:
    vec.reset(seed=0)
    for copied in (copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="vector environment cannot be copied"):
            copied(vec)
    gc.collect()  # half a copy of a pipe would close it here
    assert len(vec.step(["go"] * 4)[0]) == 4
