"""The state block of WebShop tells what was seen and done, and nothing else."""

from __future__ import annotations

import re
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from eto_gym.envs.webshop.recap import ShopRecap
from eto_gym.history import Exchange, no_state
from eto_gym.testing import text_env
from tests.envs.recaps import check_long_episode, from_scratch

PRODUCT = re.compile(r"\bB0[A-Z0-9]{8}\b")


def lines_of(first: str, exchanges: list[Exchange]) -> dict[str, str]:
    lines = from_scratch(ShopRecap, first, exchanges).split("\n")
    assert lines[0] == "So far:"
    return dict(line.split(": ", 1) for line in lines[1:])


def test_it_follows_a_purchase() -> None:
    env = gym.make("ETO/WebShop-v0")
    first, info = env.reset(options={"task": 3})
    assert text_env(env).state_writer() is ShopRecap
    assert from_scratch(ShopRecap, first, []) == ""
    expert = text_env(env).make_expert()
    exchanges: list[Exchange] = []
    observation, done = first, False
    told = []
    while not done and (reply := expert.act(observation, info)) is not None:
        observation, _, done, _, info = env.step(reply.action)
        exchanges.append(Exchange(reply.action, observation))
        told.append((reply.action, lines_of(first, exchanges)))
    env.close()
    assert done
    (search, results), (opening, item), *_, (_, bought) = told
    wish = first.split(" [SEP] ")[2]
    assert {told["Task"] for _, told in told} == {wish}
    assert results["Searched"] == search.removeprefix("search[")[:-1]
    assert results["You are on"].startswith("page 1 of the results")
    asin = opening.removeprefix("click[")[:-1].upper()
    assert item["You are on"] == f"the page of {asin}"
    assert item["Opened"].startswith(f"{asin}, ")
    assert bought["Opened"].startswith(f"{asin}, ")
    clicks = [action.removeprefix("click[")[:-1] for action, _ in told]
    chosen = [told["Clicked on this product"] for _, told in told if "Clicked on" in str(told)]
    assert chosen, "the expert chose options"
    assert set(chosen[-1].split(", ")) <= set(clicks)
    if "features" in clicks:
        assert "(read: features" in bought["Opened"]


def test_it_names_no_product_that_was_not_read() -> None:
    env = gym.make("ETO/WebShop-v0", admissible_actions=True, max_episode_steps=40)
    rng = np.random.default_rng(1)
    for task in range(4):
        first, info = env.reset(options={"task": task})
        exchanges: list[Exchange] = []
        seen, done = first, False
        while not done and len(exchanges) < 30:
            actions = [*info["admissible_actions"], "click[no such thing]", "dance"]
            action = actions[int(rng.integers(len(actions)))].replace("<query>", "red shoe")
            observation, _, done, _, info = env.step(action)
            exchanges.append(Exchange(action, observation))
            seen += observation
            block = from_scratch(ShopRecap, first, [*exchanges, Exchange(None, "Error")])
            assert {*PRODUCT.findall(block)} <= {*PRODUCT.findall(seen)}
    env.close()


def test_long_queries_do_not_swell_it_and_other_modes_have_none() -> None:
    page = "Instruction: [SEP] a mug [SEP] Back to Search [SEP] Page 1 (Total results: 50)"
    long = "search[" + "very " * 10_000 + "long]"
    block = from_scratch(
        ShopRecap, "WebShop [SEP] Instruction: [SEP] a mug [SEP] Search", [Exchange(long, page)]
    )
    assert "Task: a mug" in block
    assert len(block) < 400
    env = gym.make("ETO/WebShop-v0", observation="html")
    assert text_env(env).state_writer() is no_state
    env.close()


@pytest.mark.parametrize("first", ["", "hello", "[SEP]", "Instruction: [SEP] "])
def test_foreign_texts_raise_nothing(first: str) -> None:
    odd = [Exchange(a, o) for a in ("", "click[]", "search[") for o in ("", " [SEP] ", "Buy Now")]
    assert from_scratch(ShopRecap, first, odd).startswith("So far:")


def test_a_long_episode_is_told_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    env = gym.make("ETO/WebShop-v0", admissible_actions=True, max_episode_steps=500)
    rng = np.random.default_rng(3)
    queries = ("red shoe", "lamp", "wooden table")

    def choose(info: dict[str, Any]) -> str:
        actions = [a for a in info["admissible_actions"] if a.lower() != "click[buy now]"]
        return str(rng.choice(actions)).replace("<query>", str(rng.choice(queries)))

    check_long_episode(env, choose, monkeypatch, turns=120, options={"task": 3})
    env.close()
