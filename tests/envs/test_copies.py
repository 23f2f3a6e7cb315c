"""Copies of environments, by `copy.deepcopy` and by pickle, go on as their originals do."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.wrappers import (
    Autoreset,
    DelayObservation,
    FrameStackObservation,
    RecordEpisodeStatistics,
)

import eto_gym
from eto_gym import ConversationEnv, get_state
from eto_gym.envs.webshop.catalog.catalog import Catalog
from tests.toy import make_corridor

ACTIONS = {
    "ETO/ALFWorld-v0": ("go to shelf 1", "inventory", "look", "\ud800", "help"),
    "ETO/WebShop-v0": ("search[mug]", "click[< prev]", "click[next >]", "search[<r>]", "a\x00b"),
    "ETO/ScienceWorld-v0": ("look around", "open door to kitchen", "wait1", "inventory", "task"),
}
COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda env: pickle.loads(pickle.dumps(env)),  # noqa: S301
}
WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "none": lambda env: env.unwrapped,
    "made": lambda env: env,
    "statistics": lambda env: Autoreset(RecordEpisodeStatistics(env)),
    "stack": partial(FrameStackObservation, stack_size=2),
    "delay": partial(DelayObservation, delay=1),
    "conversation": partial(ConversationEnv, history="state"),
}
ids = pytest.mark.parametrize("env_id", list(ACTIONS))
both = pytest.mark.parametrize("how", list(COPIES))


def answer(env: Any, action: str) -> Any:
    if isinstance(env, ConversationEnv):
        action = f"Thought: I try.\nAction: {action}"
    observation, reward, terminated, truncated, info = env.step(action)
    info.get("episode", {}).pop("t", None)  # seconds
    return observation, reward, terminated, truncated, info


@both
@ids
@pytest.mark.parametrize("wrappers", list(WRAPPERS))
@pytest.mark.usefixtures("warm_engine")
def test_a_copy_goes_on_as_its_original(env_id: str, wrappers: str, how: str) -> None:
    if "Science" in env_id and wrappers not in ("made", "conversation"):
        pytest.skip("what is around an environment does not depend on which one it is")
    kwargs = {} if "Science" in env_id else {"admissible_actions": True}
    env = WRAPPERS[wrappers](gym.make(env_id, **kwargs))
    actions = ACTIONS[env_id]
    env.reset(seed=3)
    for count, action in enumerate(actions):
        answer(env, action)
        if "Science" in env_id and count < 4:
            continue  # each copy replays the episode
        other = COPIES[how](env)
        third = COPIES[how](other)  # a copy of a copy
        before = get_state(env)
        asked = [answer(other, following) for following in actions]
        assert get_state(env) == before, "the copy is not independent"
        asked.append(other.reset())  # a seed's next episode
        assert asked == [*(answer(third, following) for following in actions), third.reset()]
        if count == len(actions) - 1:
            assert asked == [*(answer(env, following) for following in actions), env.reset()]
        other.close()
        third.close()
    env.close()


@both
@ids
@pytest.mark.usefixtures("warm_engine")
def test_copies_from_before_a_reset_and_after_the_end(env_id: str, how: str) -> None:
    env = gym.make(env_id, max_episode_steps=2, feedback="helpful")
    env.unwrapped.my_own = ["kept"]  # type: ignore[attr-defined]
    env.action_space.seed(5)
    other = COPIES[how](env)
    assert other.unwrapped.my_own == ["kept"]
    assert other.action_space.sample() == env.action_space.sample()
    assert other.reset(seed=1) == env.reset(seed=1)
    for _ in range(3):  # one after the end, too
        env.step("no such action")
        other = COPIES[how](env)
        assert other.unwrapped.state_key() == env.unwrapped.state_key()  # type: ignore[attr-defined]
        assert other.spec == env.spec
        other.close()
    assert COPIES[how](env).reset() == env.reset()
    env.close()


@both
def test_copies_share_what_is_read_only(how: str) -> None:
    shop, house = gym.make("ETO/WebShop-v0").unwrapped, gym.make("ETO/ALFWorld-v0").unwrapped
    shop.reset(seed=0), house.reset(seed=0)
    shop_copy, house_copy = COPIES[how](shop), COPIES[how](house)
    assert shop_copy._pages is shop._pages  # type: ignore[attr-defined]
    assert shop_copy.task_set is shop.task_set  # type: ignore[attr-defined]
    assert house_copy._games is house._games  # type: ignore[attr-defined]
    assert house_copy._backend.episode.game is house._backend.episode.game  # type: ignore[attr-defined]


@both
@pytest.mark.parametrize("observation", ["text", "text_rich", "html", "url"])
def test_copies_of_a_shop_in_memory(how: str, observation: str) -> None:
    if observation == "html":
        pytest.importorskip("jinja2")
    record = {"asin": "B000000001", "name": "Red Mug", "pricing": "$5.00", "images": []}
    wishes = {"B000000001": [{"instruction": "a mug", "attributes": ["red"], "options": []}]}
    wishes["B000000001"][0].update(asin="B000000001", instruction_attributes=["red"])
    catalog = Catalog.from_records([record], human=wishes)
    env = gym.make("ETO/WebShop-v0", catalog=catalog, split="all", observation=observation)
    env.reset(seed=0)
    for action in ("search[mug]", "click[b000000001]", "click[features]", "click[< prev]"):
        env.step(action)
        other = COPIES[how](env)
        assert other.step("click[buy now]") == copy.deepcopy(env).step("click[buy now]")
    env.step("click[buy now]")
    assert COPIES[how](env).step("") == env.step("")


def test_a_chosen_task_set_is_copied_too() -> None:
    env = gym.make("ETO/WebShop-v0").unwrapped
    assert isinstance(env, eto_gym.TextEnv)
    env.task_set = env.task_set.filter(lambda task: task.id.endswith("1"))
    for copied in COPIES.values():
        assert copied(env).task_set.ids == env.task_set.ids


@both
def test_other_text_environments_are_copied_as_objects_are(how: str) -> None:
    env = make_corridor()
    env.reset(seed=0)
    env.step("go")
    other = COPIES[how](env)
    assert other.step("open") == env.step("open")
    assert other.reset() == env.reset()
