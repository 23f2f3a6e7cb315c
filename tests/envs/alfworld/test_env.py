"""The environment: rewards, ends, styles, snapshots, cards, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

import eto_gym
from eto_gym.envs.alfworld import ALFWorldEnv, builtin
from eto_gym.errors import UnknownNameError

ENV_ID = "ETO/ALFWorld-v0"
SPLITS = ("train", "dev", "test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("games")
    builtin.write_games(root, "train", count=4, action_grammar="move")
    return root


def test_gymnasium_checker_passes(folder: Path) -> None:
    for data in ("builtin", folder):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the checker advises numpy spaces
            check_env(gym.make(ENV_ID, data=data).unwrapped, skip_render_check=True)


def test_success_pays_once_and_terminates() -> None:
    env = gym.make(ENV_ID, split="dev")
    for task in range(6):
        observation, info = env.reset(options={"task": task})
        expert = env.unwrapped.make_expert()  # type: ignore[attr-defined]
        rewards, terminated = [], False
        while not terminated:
            assert info["score"] == 0.0
            assert info["success"] is False
            reply = expert.act(observation, info)
            observation, reward, terminated, truncated, info = env.step(reply.action)
            rewards.append(reward)
            assert not truncated
        assert rewards == [0.0] * (len(rewards) - 1) + [1.0]
        assert (info["score"], info["success"]) == (1.0, True)
        # Steps after the end neither pay again nor fail.
        observation, reward, terminated, *_ = env.unwrapped.step("look")
        assert (reward, terminated) == (0.0, True)


def test_the_registered_limit_is_the_papers() -> None:
    env = gym.make(ENV_ID)
    env.reset(seed=0)
    ends = [env.step("look")[3] for _ in range(40)]
    assert ends == [False] * 39 + [True]


def test_the_seed_chooses_the_task() -> None:
    env = gym.make(ENV_ID)
    chosen = [env.reset(seed=seed)[1]["task_id"] for seed in range(8)]
    assert chosen == [env.reset(seed=seed)[1]["task_id"] for seed in range(8)]
    assert len(set(chosen)) > 4


def test_admissible_actions_come_on_request() -> None:
    _, info = gym.make(ENV_ID).reset(seed=0)
    assert "admissible_actions" not in info
    _, info = gym.make(ENV_ID, admissible_actions=True).reset(seed=0)
    assert "look" in info["admissible_actions"]
    info["admissible_actions"].clear()  # The list is the caller's own.
    env = gym.make(ENV_ID, admissible_actions=True)
    _, info = env.reset(seed=0)
    info["admissible_actions"].clear()
    assert env.step("look")[4]["admissible_actions"]


def test_the_trimmed_style_is_the_full_one_without_banner_and_arrival() -> None:
    full = gym.make(ENV_ID, admissible_actions=True)
    eto = gym.make(ENV_ID, observation="eto")
    first, info = full.reset(seed=3)
    trimmed, _ = eto.reset(seed=3)
    assert first.split("\n\n") == ["-= Welcome to TextWorld, ALFRED! =-", *trimmed.split("\n")]
    rng = np.random.default_rng(0)
    arrivals = 0
    for _ in range(30):
        action = str(rng.choice(info["admissible_actions"]))
        observation, *_, info = full.step(action)
        trimmed, *_ = eto.step(action)
        if observation.startswith("You arrive at loc "):
            arrivals += 1
            assert trimmed == observation.partition(". ")[2]
            assert trimmed.startswith(("On the", "The "))
        else:
            assert trimmed == observation
    assert arrivals


def test_wording_follows_the_files_unless_it_is_forced(folder: Path) -> None:
    def words(**kwargs: Any) -> tuple[bool, bool]:
        env = ALFWorldEnv(admissible_actions=True, **kwargs)
        _, info = env.reset(options={"task": 0})
        instruction = env.prompt().instruction
        return "help" in info["admissible_actions"], "move {obj} to {recep}" in instruction

    assert words(data=folder) == (True, True)
    assert words(data=folder, action_grammar="put") == (False, False)
    assert words() == (False, False)
    assert words(action_grammar="move") == (True, True)


def test_a_part_of_a_split_holds_the_games_of_these_types(folder: Path) -> None:
    types = ["pick_and_place_simple", "look_at_obj_in_light"]
    whole, part = (ALFWorldEnv(split="dev", task_types=chosen) for chosen in (None, types))
    kept = [task.id for task in whole.task_set if task.type in types]
    assert part.task_set.ids == tuple(kept)
    assert 0 < len(kept) < len(whole.task_set)
    assert part.card()["task_types"] == sorted(types)
    assert "task_types" not in whole.card()
    official = {task.type for task in ALFWorldEnv(folder).task_set}
    alone = ALFWorldEnv(folder, task_types=[min(official)])
    assert {task.type for task in alone.task_set} == {min(official)}
    with pytest.raises(UnknownNameError, match="Did you mean 'pick_and_place_simple'"):
        ALFWorldEnv(task_types=["pick_and_place_simpel"])


def test_the_card_tells_engine_data_and_wording(folder: Path) -> None:
    card = ALFWorldEnv(split="dev").card()
    assert json.loads(json.dumps(card)) == card
    assert card["data"] == "builtin"
    assert (card["benchmark"], card["split"], card["backend"]) == ("alfworld", "dev", "engine")
    other = ALFWorldEnv(folder, action_grammar="put", observation="eto").card()
    assert other["data"] == str(folder / "json_2.1.1")
    assert (other["action_grammar"], other["observation"]) == ("put", "eto")
    assert other["tasks_digest"] != card["tasks_digest"]


def test_held_out_splits_share_no_task() -> None:
    ids = [set(ALFWorldEnv(split=split).task_set.ids) for split in SPLITS]
    assert not ids[0] & ids[1]
    assert not ids[0] & ids[2]
    assert not ids[1] & ids[2]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 200), st.lists(st.integers(0, 10**6), max_size=25), st.integers(0, 25))
def test_a_snapshot_replays_the_same_future(task: int, choices: list[int], at: int) -> None:
    env = gym.make(ENV_ID, admissible_actions=True)
    _, info = env.reset(options={"task": task})
    for choice in choices[:at]:
        actions = info["admissible_actions"]
        *_, info = env.step(actions[choice % len(actions)])
    state = json.dumps(eto_gym.get_state(env))
    futures = []
    other = gym.make(ENV_ID, admissible_actions=True)
    other.reset(seed=1)
    for target in (env, other, env):
        eto_gym.set_state(target, json.loads(state))
        future: list[Any] = []
        for choice in choices[at:]:
            actions = future[-1][4]["admissible_actions"] if future else info["admissible_actions"]
            future.append(target.step(actions[choice % len(actions)]))
        futures.append(future)
    assert futures[0] == futures[1] == futures[2]


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_no_action_raises(action: str) -> None:
    env = ALFWorldEnv()
    env.reset(options={"task": 0})
    observation, reward, terminated, truncated, _ = env.step(action)
    assert isinstance(observation, str)
    assert (reward, terminated, truncated) == (0.0, False, False)


@pytest.mark.parametrize(
    "arguments",
    [{"action_grammar": "putt"}, {"observation": "short"}, {"backend": "jericho"}],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(UnknownNameError, match="expected"):
        gym.make(ENV_ID, **arguments)


def test_the_official_engine_is_named_where_it_is_missing() -> None:
    code = (
        "import sys; sys.modules['textworld'] = None\n"
        "import gymnasium as gym, eto_gym\n"
        "try: gym.make('ETO/ALFWorld-v0', backend='textworld')\n"
        "except eto_gym.MissingDependencyError as err: print(err)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "eto-gym[alfworld]"' in done.stdout


def test_the_default_engine_imports_no_other() -> None:
    code = (
        "import sys, gymnasium as gym, eto_gym\n"
        "gym.make('ETO/ALFWorld-v0').reset(seed=0)\n"
        "heavy = {'textworld', 'alfworld', 'torch', 'transformers', 'tatsu', 'requests'}\n"
        "assert not heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
