"""Single slots, options, seeds, masks, snapshots, spaces, and closing."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError, ResetNeeded
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics
from hypothesis import given, settings
from hypothesis import strategies as st

import eto_gym
from eto_gym.conversation import ConversationEnv
from eto_gym.errors import UnknownNameError
from eto_gym.vector import SlotResult, TextVectorEnv
from eto_gym.vector.infos import batch_infos
from tests.toy import CORRIDOR, CorridorEnv, LanedCorridorEnv, make_corridor
from tests.vector.support import FRAGILE, same

ACTIONS = ["go", "open", "look", "\ud800", ""]
TASKS = ["door-0/0", "door-1/1", "door-2/2"]


def play_single(seed: int, actions: list[str], mode: AutoresetMode) -> list[tuple[Any, ...]]:
    """Play one environment as a slot of a vector is played."""
    env = make_corridor(max_episode_steps=3)
    observation, info = env.reset(seed=seed)
    record: list[tuple[Any, ...]] = [(observation, 0.0, False, False, info, None)]
    ended = False
    for action in actions:
        if ended and mode is AutoresetMode.NEXT_STEP:
            record.append((*_started(env), None))
            ended = False
            continue
        observation, reward, terminated, truncated, info = env.step(action)
        ended, final = terminated or truncated, None
        if ended and mode is AutoresetMode.SAME_STEP:
            final = (observation, info)
            observation, info = env.reset()
        record.append((observation, float(reward), terminated, truncated, info, final))
    return record


def _started(env: gym.Env[str, str]) -> tuple[Any, ...]:
    observation, info = env.reset()
    return observation, 0.0, False, False, info


@settings(max_examples=40, deadline=None)
@given(
    mode=st.sampled_from([AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP]),
    seed=st.integers(0, 1000),
    plans=st.lists(st.lists(st.sampled_from(ACTIONS), max_size=12), min_size=1, max_size=4),
    order=st.randoms(use_true_random=False),
)
def test_slots_stepped_in_any_order_play_as_single_environments(
    mode: AutoresetMode, seed: int, plans: list[list[str]], order: Any
) -> None:
    vec = TextVectorEnv(CORRIDOR, len(plans), autoreset_mode=mode, max_episode_steps=3)
    slots = range(len(plans))
    records = {r.slot: [r[1:7]] for r in vec.reset_slots(slots, seed=[seed + i for i in slots])}
    left = {slot: list(plan) for slot, plan in enumerate(plans)}
    while any(left.values()):
        ready = [slot for slot in slots if left[slot]]
        chosen = order.sample(ready, order.randint(1, len(ready)))
        vec.send_steps(chosen, [left[slot].pop(0) for slot in chosen])
        for result in vec.receive():
            records[result.slot].append(result[1:7])
    for slot in slots:
        assert records[slot] == play_single(seed + slot, plans[slot], mode)
    vec.close()


def test_workers_answer_as_they_finish() -> None:
    vec = TextVectorEnv(CORRIDOR, 4, vectorization="process", workers=2)
    local = TextVectorEnv(CORRIDOR, 4)
    for one in (vec, local):
        one.reset(seed=3)
    rng = np.random.default_rng(0)
    plans = [[ACTIONS[i] for i in rng.integers(len(ACTIONS), size=20)] for _ in range(4)]
    got: list[list[SlotResult]] = [[] for _ in plans]
    for slot in range(4):
        vec.send_steps([slot], [plans[slot][0]])  # the second of a worker waits for the first
    while any(len(own) < 20 for own in got):
        for result in vec.receive():
            own = got[result.slot]
            own.append(result)
            if len(own) < 20:
                vec.send_steps([result.slot], [plans[result.slot][len(own)]])
    assert vec.pending == []
    assert vec.receive(timeout=0.0) == []
    for step in range(20):
        expected = local.step_slots(range(4), [plan[step] for plan in plans])
        assert [own[step] for own in got] == expected
    vec.close()
    local.close()


def test_nothing_is_done_twice() -> None:
    vec = TextVectorEnv(CORRIDOR, 2)
    with pytest.raises(ResetNeeded, match="slot 0 was never reset"):
        vec.step(("go", "go"))
    vec.reset(seed=0)
    vec.send_steps([1], ["go"])
    assert vec.pending == [1]
    with pytest.raises(AlreadyPendingCallError, match="receive them first"):
        vec.send_steps([1], ["go"])
    with pytest.raises(AlreadyPendingCallError):
        vec.step(("go", "go"))
    assert vec.step_slots([0], ["go"])[0].observation == "You are at door 1."
    assert [r.slot for r in vec.receive()] == [1]
    for slots in ([0, 0], [2], [-1]):
        with pytest.raises(ValueError, match="expected different slots"):
            vec.step_slots(slots, ["go"] * len(slots))
    with pytest.raises(TypeError, match="expected an action of type str for slot 1, got int"):
        vec.step(("go", 3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected 2 actions, got 1"):
        vec.step(("go",))
    vec.send_steps([0, 1], ["go", "go"])
    vec.reset(seed=0)  # drops what is under way
    assert vec.pending == []
    vec.close()
    with pytest.raises(ClosedEnvironmentError):
        vec.step(("go", "go"))
    with pytest.raises(ClosedEnvironmentError):
        vec.reset()


def test_disabled_autoreset_wants_a_reset() -> None:
    vec = TextVectorEnv(CORRIDOR, 2, autoreset_mode=AutoresetMode.DISABLED)
    vec.reset(seed=0)
    assert vec.step(("open", "go"))[2].tolist() == [True, False]
    with pytest.raises(ResetNeeded, match="slot 0 has ended"):
        vec.step(("go", "go"))
    assert vec.step_slots([1], ["go"])[0].observation == "You are at door 2."
    vec.reset_slots([0], options={"task": "door-1/1"})
    assert vec.step(("go", "go"))[0] == ("You are at door 1.", "You are at door 3.")
    vec.close()


def test_options_per_environment() -> None:
    vec = TextVectorEnv(CORRIDOR, 3)
    for options in ({"task": TASKS}, [{"task": task} for task in TASKS]):
        assert vec.reset(options=options)[1]["task_id"].tolist() == TASKS
    assert vec.reset(options={"task": 2})[1]["task_id"].tolist() == ["door-2/2"] * 3
    drawn = vec.reset(seed=8)[1]["task_id"].tolist()
    infos = vec.reset(seed=8, options={"task": [None, 1, None]})[1]
    assert infos["task_id"].tolist() == [drawn[0], "door-1/1", drawn[2]]
    assert vec.reset(seed=8, options=[None, {"task": 1}, {}])[1]["task_id"].tolist() == [
        drawn[0],
        "door-1/1",
        drawn[2],
    ]
    wrong: list[tuple[Any, type[Exception]]] = [
        ({"task": ["door-0/0"]}, ValueError),
        ([{}], ValueError),
        (["door-0/0"] * 3, TypeError),
        ("door-0/0", TypeError),
        ({"taks": 1}, UnknownNameError),
        ({"task": ["door-0/0", "door-9/9", None]}, UnknownNameError),
    ]
    for options, error in wrong:
        with pytest.raises(error, match="expected"):
            vec.reset(options=options)
    assert [r.info["task_id"] for r in vec.reset_slots([2, 0], options={"task": TASKS[:2]})] == [
        "door-0/0",
        "door-1/1",
    ]
    vec.close()


def test_reset_mask() -> None:
    vec = TextVectorEnv(CORRIDOR, 3)
    vec.reset(seed=0)
    before = vec.step(("go", "go", "go"))[0]
    options = {"reset_mask": np.array([False, True, False]), "task": TASKS}
    observations, infos = vec.reset(options=options)
    assert set(options) == {"reset_mask", "task"}, "the caller's dictionary is left alone"
    assert (observations[0], observations[2]) == (before[0], before[2])
    assert observations[1].startswith("You are at door 0.")
    assert infos["_task_id"].tolist() == [False, True, False]
    assert infos["task_id"][1] == "door-1/1"
    wrong: list[Any] = [
        [True] * 3,
        np.array([1, 0, 0]),
        np.array([True]),
        np.zeros(3, dtype=np.bool_),
    ]
    for mask in wrong:
        with pytest.raises((TypeError, ValueError), match="expected reset_mask"):
            vec.reset(options={"reset_mask": mask})
    vec.close()


def test_seeds() -> None:
    vec = TextVectorEnv(CORRIDOR, 3)
    by_list = vec.reset(seed=[4, 5, 6])[1]["task_id"].tolist()
    assert vec.reset(seed=4)[1]["task_id"].tolist() == by_list
    assert vec.np_random_seed == (4, 5, 6)
    after = [generator.random() for generator in vec.np_random]
    vec.reset(seed=[4, None, 6])
    assert [g.random() for g in vec.np_random][::2] == after[::2]
    with pytest.raises(ValueError, match="expected 3 seeds, got 2"):
        vec.reset(seed=[1, 2])
    vec.close()


@pytest.mark.parametrize("seed", [[1.5, 2], ["1", "2"], [np.float64(1), None]])
def test_a_seed_that_is_no_whole_number_is_refused(seed: Any) -> None:
    env = TextVectorEnv(CORRIDOR, 2)
    with pytest.raises(TypeError):
        env.reset(seed=seed)
    with pytest.raises(TypeError):
        env.reset_slots([0, 1], seed=seed)


@pytest.mark.parametrize("way", [{}, {"vectorization": "process", "workers": 2}])
def test_snapshots_of_slots(way: dict[str, Any]) -> None:
    vec = TextVectorEnv(CORRIDOR, 3, max_episode_steps=4, **way)
    vec.reset(seed=0, options={"task": ["door-1/1", "door-2/2", "door-3/3"]})
    vec.step(("open", "go", "go"))  # slot 0 ends
    states = json.loads(json.dumps(vec.get_state()))
    future = [vec.step(("go", "go", "go")) for _ in range(5)]
    vec.reset(seed=1)
    vec.set_state(states[1:], [1, 2])
    # The autoreset draws a task, which is no part of a snapshot.
    again = [vec.step(("go", "go", "go")) for _ in range(3)]
    for one, other in zip(future, again, strict=False):
        assert one[0][1:] == other[0][1:]
        assert one[3][1:].tolist() == other[3][1:].tolist()
    vec.set_state(states)
    assert vec.step(("go",) * 3)[0][0].startswith("You are at door 0."), "slot 0 had ended"
    single = make_corridor(max_episode_steps=4)
    single.reset(options={"task": "door-2/2"})
    single.step("go")
    vec.set_state([eto_gym.get_state(single)], [0])
    assert vec.step(("go",) * 3)[0][0] == single.step("go")[0]
    vec.close()


@pytest.mark.parametrize("way", [{}, {"vectorization": "process", "workers": 2}])
def test_a_refused_snapshot_leaves_its_slot_and_no_other(way: dict[str, Any]) -> None:
    vec = TextVectorEnv(CORRIDOR, 3, max_episode_steps=2, **way)
    vec.reset(seed=0, options={"task": "door-3/3"})
    vec.step(("go",) * 3)
    good = vec.get_state()
    vec.step(("go",) * 3)  # all end by the limit
    bad = {**good[1], "env": {**good[1]["env"], "task_id": "nope"}}
    with pytest.raises(ValueError, match="shorter"):
        vec.set_state(good[:2], [0, 1, 2])  # sets none
    with pytest.raises(UnknownNameError, match="nope"):
        vec.set_state([good[0], bad, good[2]])
    observations, _, _, truncated, _ = vec.step(("go",) * 3)
    assert [text.split("\n")[0] for text in observations] == [
        "You are at door 2.",
        "You are at door 0.",
        "You are at door 2.",
    ]
    assert truncated.tolist() == [True, False, True]
    vec.close()


def test_a_snapshot_keeps_what_wrappers_made_of_an_observation() -> None:
    vec = TextVectorEnv(CORRIDOR, 2, env_wrappers=[ConversationEnv], autoreset_mode="Disabled")
    vec.reset(seed=0)
    seen = vec.step(("no action", "Action: go"))[0]
    states = json.loads(json.dumps(vec.get_state()))
    for slot in range(2):
        vec.step(("Action: go", "Action: go"))
        vec.set_state(states)
        mask = np.arange(2) != slot
        observations, _ = vec.reset(seed=1, options={"reset_mask": mask})
        assert observations[slot] == seen[slot]
    vec.close()


def test_arguments_work_as_in_make() -> None:
    for steps in (None, 2, -1):
        kwargs: dict[str, Any] = {} if steps is None else {"max_episode_steps": steps}
        single = make_corridor(**kwargs)
        vec = TextVectorEnv(CORRIDOR, 1, **kwargs)
        single.reset(seed=0)
        vec.reset(seed=0)
        for _ in range(12):
            truncated = single.step("look")[3]
            assert vec.step(("look",))[3].tolist() == [truncated]
            if truncated:
                break
        vec.close()
    vec = TextVectorEnv(CORRIDOR, 1, env_wrappers=[ConversationEnv], render_mode="ansi")
    vec.reset(seed=0)
    assert vec.step(("Thought: On.\nAction: go",))[0] == ("Observation: You are at door 1.",)
    assert vec.render() == ("You are at door 1.",)
    assert len(vec.get_attr("conversation")[0]) == 5
    vec.set_attr("note", [7])
    assert vec.get_attr("note") == (7,)
    vec.close()
    mistakes: list[dict[str, Any]] = [
        {"num_envs": 0},
        {"workers": 2},
        {"vectorization": "thread"},
        {"vectorization": "process", "workers": 0},
        {"vectorization": "process", "worker_timeout": 0.0},
    ]
    for wrong in mistakes:
        with pytest.raises(ValueError, match=r"expected|need"):
            TextVectorEnv(CORRIDOR, **wrong)


def test_make_vec() -> None:
    vec = gym.make_vec("ETO/WebShop-v0", num_envs=2, autoreset_mode="SameStep")
    assert vec.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert vec.single_observation_space == eto_gym.UnicodeText()
    observations, _ = vec.reset(seed=0)
    assert vec.observation_space.contains(observations)
    assert vec.action_space.contains(vec.action_space.sample())
    assert vec.spec is not None
    again = gym.make_vec(vec.spec)
    assert again.num_envs == 2
    assert again.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    limit = [vec.step(("x", "x"))[3].tolist() for _ in range(10)]
    assert limit == [[False, False]] * 9 + [[True, True]], "the registered limit is 10 steps"
    shops = {id(env.unwrapped._shop.catalog) for env in vec.envs}  # type: ignore[attr-defined]
    assert len(shops) == 1
    vec.close()
    again.close()
    with pytest.raises(gym.error.Error, match="wrappers"):
        gym.make_vec("ETO/WebShop-v0", wrappers=[ConversationEnv], num_envs=1)


def test_functions_make_environments_too() -> None:
    vec = TextVectorEnv([make_corridor, CorridorEnv], 2, split="dev")
    assert [env.spec is None for env in vec.envs] == [False, True]
    assert [card["split"] for card in vec.call("card")] == ["dev", "dev"]
    vec.set_attr("position", 2, [1])
    assert vec.call_slots([1, 0], "position") == (2, 0)
    vec.close()
    with pytest.raises(ValueError, match="expected 3 functions, one per slot, got 2"):
        TextVectorEnv([make_corridor, CorridorEnv], 3)
    one = make_corridor()
    with pytest.raises(ValueError, match="twice"):
        TextVectorEnv(lambda: one, 2)


def test_waiting_can_be_called_off() -> None:
    held = threading.Event()

    class Held(LanedCorridorEnv):
        def _step(self, action: str) -> tuple[str, float, bool, bool]:
            assert held.wait(30)
            return super()._step(action)

    local = TextVectorEnv(lambda: Held(lane=0), 1)
    remote = TextVectorEnv(FRAGILE, 1, vectorization="process", workers=1)
    for vec, action in ((local, "go"), (remote, "sleep")):
        vec.reset(seed=0)
        vec.send_steps([0], [action])
        begun = time.monotonic()
        timer = threading.Timer(0.2, vec.wake)
        timer.start()
        assert vec.receive() == []
        timer.join()
        for _ in range(20_000):  # more than fit into a pipe
            vec.wake()
        assert vec.receive() == []
        assert vec.receive(timeout=0.05) == [], "calls add up"
        assert time.monotonic() - begun < 20
        held.set()
        vec.close()
        vec.wake()


def test_games_are_shared() -> None:
    vec = gym.make_vec("ETO/ALFWorld-v0", num_envs=3)
    vec.reset(seed=0, options={"task": 5})
    games = {id(env.unwrapped._backend.episode.game) for env in vec.envs}  # type: ignore[attr-defined]
    sets = {id(env.unwrapped.task_set) for env in vec.envs}  # type: ignore[attr-defined]
    assert (len(games), len(sets)) == (1, 1)
    vec.close()


def test_gymnasium_wrappers_of_vectors() -> None:
    vec = DictInfoToList(RecordEpisodeStatistics(TextVectorEnv(CORRIDOR, 2)))
    vec.reset(seed=0, options={"task": ["door-0/0", "door-1/1"]})
    *_, infos = vec.step(("open", "go"))
    assert infos[0]["episode"]["r"] == 1.0
    assert "episode" not in infos[1]
    vec.close()


VALUES = st.one_of(
    st.none(), st.booleans(), st.text(max_size=2), st.lists(st.text(max_size=1), max_size=2)
)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 4).flatmap(
        lambda n: st.lists(
            st.dictionaries(
                st.sampled_from("abc"),
                st.one_of(VALUES, st.dictionaries(st.sampled_from("xy"), st.integers(-9, 9))),
            ),
            min_size=n,
            max_size=n,
        )
    )
)
def test_infos_are_batched_as_gymnasium_does(infos: list[dict[str, Any]]) -> None:
    for name in "abc":  # of one kind per key, for Gymnasium's batches depend on the order else
        kinds = {type(info[name]) for info in infos if name in info}
        if len(kinds) > 1:
            for info in infos:
                info.pop(name, None)
    base = gym.vector.VectorEnv[Any, Any, Any]()
    base.num_envs = len(infos)
    expected: dict[str, Any] = {}
    for index, info in enumerate(infos):
        expected = base._add_info(expected, info, index)
    assert same(batch_infos(enumerate(infos), len(infos)), expected)


def test_infos_of_mixed_kinds() -> None:
    batch = batch_infos([(0, {"n": 1, "m": 2, "a": 0}), (1, {"n": 0.5, "m": "x"})], 3)
    assert batch["n"].tolist() == [1.0, 0.5, 0.0]
    assert batch["m"].tolist() == [2, "x", None]
    assert batch["_a"].tolist() == [True, False, False]
    arrays = batch_infos(enumerate([{"v": np.ones(2)}, {"v": np.zeros(2)}]), 2)
    assert arrays["v"].tolist() == [[1.0, 1.0], [0.0, 0.0]]
    uneven = batch_infos(enumerate([{"v": np.ones(2)}, {"v": np.zeros(3)}]), 2)
    assert [len(v) for v in uneven["v"]] == [2, 3]


def test_workers_are_served_one_by_one() -> None:
    vec = TextVectorEnv(CORRIDOR, 4, vectorization="process", workers=2)
    try:
        vec.send_resets(range(4))
        for worker in vec._backend.workers:  # type: ignore[union-attr]
            assert worker.connection.poll(30)
        served = [[result.slot for result in vec.receive()] for _ in range(2)]
        assert sorted(served) == [[0, 1], [2, 3]], "one waited for the other to be served"
        assert vec.receive(0.0) == []
    finally:
        vec.close()
