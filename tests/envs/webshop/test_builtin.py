"""The built-in catalog and the expert that shops in it."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter

import pytest

from eto_gym.envs.webshop import WebShopEnv, WebShopExpert
from eto_gym.envs.webshop.builtin import builtin_catalog, generate
from eto_gym.envs.webshop.builtin import vocabulary as words
from eto_gym.envs.webshop.pages import SEPARATOR
from eto_gym.envs.webshop.reward import score_purchase

RECORDS = generate()


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def test_the_same_seed_makes_the_same_catalog() -> None:
    small = generate(seed=3, per_kind=2)
    again = generate(seed=3, per_kind=2)
    assert (small.products, small.attributes, small.human) == (
        *(again.products, again.attributes),
        again.human,
    )
    assert generate(seed=4, per_kind=2).products != small.products


def test_version_0_plays_on_exactly_this_catalog() -> None:
    """A changed catalog changes tasks and rewards, and so needs a new version of the env."""
    found = [digest(part) for part in (RECORDS.products, RECORDS.attributes, RECORDS.human)]
    goals = builtin_catalog().goals("human")
    found.append(digest([(g.asin, g.instruction, g.price_upper) for g in goals]))
    assert found == PINNED


PINNED = [
    "1641de50388fd2d2",
    "082da73c4d8ad3ca",
    "a89153bfb1c66d29",
    "ec1db4359ca0e39d",
]
"""Digests of the products, attributes, human goals, and the catalog's drawn goals."""


def test_size_and_departments() -> None:
    assert len(RECORDS.products) == 2160
    assert set(Counter(p["category"] for p in RECORDS.products)) == {
        *("beauty", "garden", "grocery", "electronics", "fashion"),
    }
    assert len({p["asin"] for p in RECORDS.products}) == 2160
    assert len({p["name"] for p in RECORDS.products}) > 1900


def test_every_attribute_is_told_on_the_pages() -> None:
    for product in RECORDS.products:
        pages = [product["name"], product["full_description"], *product["small_description"]]
        text = " ".join(pages).lower()
        for attribute in RECORDS.attributes[product["asin"]]["attributes"]:
            assert attribute in text


def test_nouns_are_words_of_the_title() -> None:
    for product in RECORDS.products:
        title = product["name"].lower().replace(",", " ").split()
        assert product["nouns"]
        assert set(product["nouns"]) <= set(title)


def test_every_goal_can_be_met_by_its_product() -> None:
    catalog = builtin_catalog()
    for goal in catalog.goals("human"):
        product = catalog.product(goal.product)
        chosen = {
            name: value
            for name, values in product.options.items()
            for value in values
            if value in goal.options
        }
        assert score_purchase(product, chosen, goal).total == 1.0
        assert all(value in goal.instruction for value in goal.options)
        assert all(attribute in goal.instruction for attribute in goal.attributes)


def test_goals_need_search_reading_and_choice() -> None:
    catalog = builtin_catalog()
    goals = list(catalog.goals("human"))
    unread = choose = 0
    for goal in goals:
        title = goal.name.lower()
        unread += not all(attribute in title for attribute in goal.attributes)
        choose += bool(goal.options)
    assert unread > 0.5 * len(goals), "titles alone do not tell"
    assert choose > 0.9 * len(goals)
    kinds = [goal for goal in goals if goal.query == "shampoos"]
    rivals = [
        score_purchase(catalog.product(other.product), {}, goal).total
        for goal in kinds[:10]
        for other in kinds
        if other.product != goal.product
    ]
    assert sum(rivals) / len(rivals) < 0.6, "most products of the same kind do not fit"


def play(env: WebShopEnv, task: str) -> tuple[float, list[str], list[str]]:
    observation, info = env.reset(seed=0, options={"task": task})
    expert = env.make_expert()
    seen = [observation]
    replies: list[str] = []
    while (reply := expert.act(observation, info)) is not None and len(replies) < 10:
        observation, _, terminated, truncated, info = env.step(reply.action)
        seen.append(observation)
        replies.append(str(reply))
        if terminated or truncated:
            break
    return info["score"], seen, replies


def test_the_expert_earns_its_reward() -> None:
    env = WebShopEnv(split="test", max_episode_steps=10)
    scores = [play(env, task.id)[0] for task in env.task_set]
    assert len(scores) > 150
    assert sum(scores) / len(scores) > 0.9


def test_the_expert_acts_on_what_the_pages_show() -> None:
    env = WebShopEnv(split="train", max_episode_steps=10)
    for task in env.task_set[:80]:
        _, seen, replies = play(env, task.id)
        assert replies[-1].endswith("Action: click[buy now]")
        for page, reply in zip(seen, replies, strict=False):
            action = reply.rpartition("Action: ")[2]
            name, _, argument = action[:-1].partition("[")
            if name == "click":
                assert argument in [segment.lower() for segment in page.split(SEPARATOR)]
            else:
                assert set(argument.split()) <= set(
                    page.lower().replace(",", " ").replace("(", " ").replace(")", " ").split()
                )


def test_the_expert_is_the_same_on_every_run() -> None:
    env = WebShopEnv(split="train", max_episode_steps=10)
    for task in env.task_set[:5]:
        assert play(env, task.id) == play(env, task.id)


@pytest.mark.parametrize(
    "observation",
    [
        "",
        "x",
        "WebShop [SEP] Instruction: [SEP]  [SEP] Search",
        "WebShop [SEP] Instruction: [SEP] i need {braces} [SEP] Search",
        "Instruction: [SEP] a [SEP] Back to Search [SEP] Page 1 (Total results: 0) [SEP] Next >",
        "Thank you for shopping with us! [SEP] x [SEP] y",
    ],
)
def test_the_expert_takes_odd_pages(observation: str) -> None:
    for expert in (WebShopExpert(), WebShopExpert(elapsed=lambda: 8)):
        reply = expert.act(observation, {})
        assert reply is None or reply.action.startswith("search[")


@pytest.mark.parametrize(
    "before",
    [
        ["search[mug]"],
        ["search[mug]", "click[next >]", "click[next >]", "click[next >]", "click[next >]"],
        ["search[mug]", "OPEN"],
        ["search[mug]", "OPEN", "click[features]"],
        ["look"] * 5,
        [*["look"] * 6, "search[mug]"],
        [*["look"] * 6, "search[mug]", "OPEN"],
        [*["look"] * 5, "search[mug]", "OPEN", "click[features]"],
        ["look"] * 9,
    ],
)
def test_the_expert_goes_on_with_what_others_began(before: list[str]) -> None:
    env = WebShopEnv(split="train", max_episode_steps=10)
    observation, info = env.reset(options={"task": "human-5"})
    for action in before:
        if action == "OPEN":
            action = f"click[{observation.split(SEPARATOR)[5]}]"
        observation, *_, info = env.step(action)
    expert = env.make_expert()
    bought = False
    while (reply := expert.act(observation, info)) is not None:
        observation, _, bought, truncated, info = env.step(reply.action)
        assert bought or not truncated, "it runs out of steps"
    assert bought is (len(before) < 9)
    assert (info["score"] > 0.5) is (len(before) < 8)


@pytest.mark.parametrize("price", ["$9.50", "$90.00", "$5.00 to $90.00"])
def test_the_experts_thoughts_are_true_and_readable(price: str) -> None:
    head = "Please help me find a red mug, price lower than {} dollars"
    thoughts = set()
    for limit in range(10, 30):
        expert = WebShopExpert()
        wish = head.format(f"{limit}.00")
        first = expert.act(f"WebShop [SEP] Instruction: [SEP] {wish} [SEP] Search", {})
        assert first is not None
        assert re.search(r"(for this|find|match this):? a red mug\.", first.thought)
        page = "Back to Search [SEP] Page 1 (Total results: 1) [SEP] Next >"
        page = f"Instruction: [SEP] {wish} [SEP] {page} [SEP] B000000001 [SEP] Cup [SEP] {price}"
        second = expert.act(page, {})
        assert second is not None
        assert second.action == "click[b000000001]"
        thoughts.add(second.thought)
    assert any("is all right" in thought for thought in thoughts) is (price == "$9.50")
    assert any(price in thought for thought in thoughts)


def test_vocabulary_is_consistent() -> None:
    for _, kinds in words.DEPARTMENTS.values():
        for kind in kinds:
            assert kind.traits in words.TRAITS
            names = [words.OPTION_NAMES[pool] for pool in kind.options]
            assert len(names) == len(set(names)) >= 1
            assert all(pool in words.OPTION_VALUES for pool in kind.options)
    assert sum(len(kinds) for _, kinds in words.DEPARTMENTS.values()) == 54
