"""The environment: contract, splits, settings, sharing, start."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from eto_gym import UnknownNameError
from eto_gym.envs.webshop import WebShopEnv
from eto_gym.envs.webshop import shop as shop_module
from eto_gym.envs.webshop.shop import open_shop
from eto_gym.envs.webshop.tasks import goal_index, paper_lists, split_indices
from eto_gym.errors import EtoGymError
from eto_gym.testing import TextEnvContract, TextGymEnv
from tests.envs.webshop.small import small_catalog
from tests.envs.webshop.support import SHARED, golden_json, golden_tagger


class TestWebShopContract(TextEnvContract):
    def make_env(self, **kwargs: Any) -> TextGymEnv:
        return gym.make("ETO/WebShop-v0", **kwargs)


class TestWebShopContractOnSyntheticGoals(TextEnvContract):
    def make_env(self, **kwargs: Any) -> TextGymEnv:
        return gym.make("ETO/WebShop-v0", goals="synthetic", split="test", **kwargs)


def make(**kwargs: Any) -> WebShopEnv:
    return WebShopEnv(**{"catalog": small_catalog(), "split": "all", **kwargs})


def odd_task(env: WebShopEnv) -> str:
    goals = env._shop.catalog.goals("human")
    return next(f"human-{goal.index}" for goal in goals if goal.asin == "B000000ODD")


def test_an_int_task_is_a_goal_index() -> None:
    env = WebShopEnv(split="test")
    indices = env.task_set.ids
    index = goal_index(indices[7], "human")
    assert index is not None
    assert index != 7
    assert env.reset(options={"task": index})[1]["task_id"] == indices[7]
    train = goal_index(WebShopEnv(split="train").task_set[0].id, "human")
    with pytest.raises(UnknownNameError, match='split="all"'):
        env.reset(options={"task": train})
    for wrong in (
        "human-007",
        "human-",
        "synthetic-1",
        "human-99999999999999999999",
        "human-²",
        -1,
    ):
        with pytest.raises(UnknownNameError):
            env.reset(options={"task": wrong})
    count = len(env.task_set)
    with pytest.raises(UnknownNameError, match=rf"\({count} in all\)"):
        env.reset(options={"task": "human-"})


def test_reward_and_its_parts_come_with_the_purchase_only() -> None:
    env = make()
    task = odd_task(env)
    _, info = env.reset(options={"task": task})
    assert info == {
        **{"task_id": task, "task_type": "garden", "score": 0.0, "success": False},
        **{"purchased": False, "page": "index"},
    }
    assert env.step("search[odd]")[1] == 0.0
    env.step("click[b000000odd]")
    for option in ("click[red]", "click[large]"):
        assert env.step(option)[1:4] == (0.0, False, False)
    _, reward, terminated, truncated, info = env.step("click[buy now]")
    assert (reward, terminated, truncated) == (1.0, True, False)
    assert info["success"] is True
    assert info["purchased"] is True
    assert info["reward_parts"]["r_type"] == 1.0


def test_a_partial_reward_is_a_purchase_but_no_success() -> None:
    env = make(max_episode_steps=3)
    env.reset(options={"task": odd_task(env)})
    env.step("search[plain]")
    env.step("click[b000000003]")
    _, reward, terminated, truncated, info = env.step("click[buy now]")
    assert 0.0 < reward < 1.0
    assert (terminated, truncated) == (True, True), "a purchase on the last step counts"
    assert (info["success"], info["purchased"], info["score"]) == (False, True, reward)


@pytest.mark.parametrize("mode", ["text", "text_rich", "url", "html"])
def test_observation_modes(mode: Any) -> None:
    if mode == "html":
        pytest.importorskip("jinja2")
    env = make(observation=mode)
    observation, _ = env.reset(options={"task": "human-0"})
    starts = {"url": "http://", "html": "<!DOCTYPE html>"}
    assert observation.startswith(starts.get(mode, "WebShop"))
    assert env.step("search[mug]")[0] != observation


def test_settings_are_checked() -> None:
    for wrong in ({"observation": "pixels"}, {"goals": "humans"}, {"split": "val"}):
        with pytest.raises(UnknownNameError):
            make(**wrong)
    with pytest.raises(EtoGymError, match="holds no synthetic goals"):
        make(goals="synthetic")
    with pytest.raises(EtoGymError, match="expert reads observation 'text'"):
        make(observation="url").make_expert()
    with pytest.raises(EtoGymError):
        WebShopEnv(catalog="no such folder")


def test_the_card_says_what_was_played() -> None:
    card = WebShopEnv().card()
    assert card["catalog"]["name"] == "builtin"
    assert card["catalog"]["tagger"] == "given"
    assert (card["goals"], card["split"], card["split_rule"]) == ("human", "train", "product")


def test_splits_part_the_goals_by_product() -> None:
    for goals in ("human", "synthetic"):
        whole = WebShopEnv(goals=goals, split="all")
        products = np.asarray(open_shop("builtin").catalog.goals(goals).products)
        parts = {s: WebShopEnv(goals=goals, split=s).task_set for s in ("train", "test")}
        ids = [set(part.ids) for part in parts.values()]
        assert not ids[0] & ids[1]
        assert ids[0] | ids[1] == set(whole.task_set.ids)
        targets = [{products[goal_index(i, goals) or 0] for i in part} for part in ids]
        assert not targets[0] & targets[1]
        assert 0.05 < len(ids[1]) / len(whole.task_set) < 0.2


def test_the_paper_lists_apply_to_the_full_catalog_only() -> None:
    products = np.arange(12_087)
    assert len(split_indices("human", products, "train")) == 1823
    assert len(split_indices("human", products, "test")) == 200
    assert len(split_indices("human", products, "all")) == 12_087
    assert len(split_indices("synthetic", products, "test")) == 1208
    assert len(split_indices("human", products[:1000], "test")) == 100


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is absent")
def test_the_paper_lists_are_the_papers() -> None:
    folder = SHARED / "data" / "eto" / "webshop"
    train = json.loads((folder / "train_indices.json").read_text())
    assert paper_lists()["train"].tolist() == sorted(set(train))
    assert paper_lists()["test"].tolist() == json.loads((folder / "test_indices.json").read_text())


def test_task_sets_are_lazy_sequences() -> None:
    tasks = WebShopEnv(split="test").task_set
    assert len(tasks[3:9]) == 6
    assert tasks[3:9][0] == tasks[3]
    assert tasks[3] in tasks
    known: Any = tasks[3].id
    unknown: Any = "human-x"
    assert known in tasks
    assert unknown not in tasks
    assert sorted(tasks.shuffle(1).ids) == sorted(tasks.ids)
    assert tasks.shuffle(1).ids == tasks.shuffle(1).ids != tasks.ids
    shards = [tasks.shard(i, 3) for i in range(3)]
    assert sum(map(len, shards)) == len(tasks)
    beauty = tasks.filter(type="beauty")
    assert {task.type for task in beauty} == {"beauty"}
    assert 0 < len(beauty) < len(tasks)
    with pytest.raises(UnknownNameError):
        tasks.filter(type="books")


def test_human_goals_are_drawn_evenly() -> None:
    env = make(split="all")
    drawn = [env.reset(seed=seed)[1]["task_id"] for seed in range(300)]
    counts = {name: drawn.count(name) for name in set(drawn)}
    assert set(counts) == {"human-0", "human-1"}, "the original never draws goal 0"
    assert min(counts.values()) > 110


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is absent")
def test_synthetic_goals_are_drawn_by_weight() -> None:
    from eto_gym.envs.webshop.catalog.catalog import Catalog

    catalog = Catalog.from_records(
        golden_json("items_shuffle")[:60],
        attributes=golden_json("items_ins_v2"),
        tagger=golden_tagger(),
    )
    env = WebShopEnv(catalog=catalog, goals="synthetic", split="all")
    goals = catalog.goals("synthetic")
    weights = np.array([goal.weight for goal in goals])
    heavy = int(weights.argmax())
    rng = np.random.default_rng(0)
    env.np_random = rng
    draws = [goal_index(env._draw_task().id, "synthetic") for _ in range(20_000)]
    share = draws.count(heavy) / len(draws)
    assert share == pytest.approx(weights[heavy] / weights.sum(), rel=0.15)


def test_environments_share_the_catalog_and_nothing_else() -> None:
    catalog = small_catalog()
    one, other = WebShopEnv(catalog=catalog, split="all"), WebShopEnv(catalog=catalog, split="all")
    assert one._shop is other._shop
    for env in (one, other):
        env.reset(seed=1, options={"task": "human-0"})
    one.step("search[mug]")
    one.step("click[b000000odd]")
    one.step("click[red]")
    assert other.step("nothing")[0].startswith("WebShop")
    assert other.session.options == {}


def test_a_shop_goes_with_its_last_environment() -> None:
    env = make()
    count = len(shop_module._open_shops)
    assert count >= 1
    del env
    gc.collect()
    assert len(shop_module._open_shops) < count


def test_a_snapshot_moves_to_another_environment() -> None:
    one, other = make(), make()
    one.reset(seed=3, options={"task": "human-0"})
    for action in ("search[<r>]", "click[b000000odd]", "click[large]"):
        one.step(action)
    state = json.loads(json.dumps(one.get_state()))
    other.reset(seed=9)
    other.set_state(state)
    for action in ("click[< prev]", "click[next >]", "click[next >]", "search[<r>]"):
        assert one.step(action) == other.step(action)


def test_a_cold_start_is_fast_and_light() -> None:
    code = (
        "import sys, time\n"
        "import gymnasium as gym, eto_gym\n"
        "gym.make('ETO/WebShop-v0').reset(seed=0)\n"
        "heavy = {'torch', 'flask', 'jinja2', 'spacy', 'tqdm'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "print(time.process_time())"
    )
    root = Path(__file__).resolve().parents[3]
    seconds = min(
        float(subprocess.check_output([sys.executable, "-c", code], cwd=root)) for _ in range(2)
    )
    assert seconds < 1.5, "CPU time, with room for a busy machine; an idle one takes half of it"
