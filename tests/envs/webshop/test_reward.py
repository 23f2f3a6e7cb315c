"""The reward's parts, by hand; the recorded rewards are compared in test_replay.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eto_gym.envs.webshop.catalog.goals import Goal
from eto_gym.envs.webshop.catalog.product import Product
from eto_gym.envs.webshop.reward import COLORS, normalize_color, score_purchase, token_set_ratio

PRODUCT = Product(
    index=0,
    asin="B000000001",
    title="Acme Wool Socks",
    description="Warm and Cosy",
    bullets=("Made by hand", "For cold Feet"),
    price_text="$9.0",
    price=9.0,
    options={"color": ("dark red", "navy"), "size": ("large", "6.5")},
    attributes=("machine washable",),
    category="fashion",
    query="socks",
    product_category="Clothing › Men › Socks",
    nouns=("acme", "wool", "socks"),
    image="",
    option_images={},
)
GOAL = Goal(
    index=0,
    product=0,
    asin="B000000001",
    name="Acme Wool Socks",
    category="fashion",
    query="socks",
    product_category="Clothing › Men › Socks",
    nouns=("acme", "wool", "socks"),
    instruction="find socks",
    attributes=("machine washable",),
    options=(),
    price_upper=20.0,
    weight=1.0,
)


def score(chosen: dict[str, str] | None = None, **goal: Any) -> Any:
    return score_purchase(PRODUCT, chosen or {}, replace(GOAL, **goal))


@pytest.mark.parametrize(
    ("goal", "r_type"),
    [
        ({}, 1.0),
        ({"query": "hats"}, 1.0),
        ({"query": "hats", "product_category": "x"}, 1.0),
        ({"query": "hats", "product_category": "x", "nouns": ("acme", *"abcd")}, 0.5),
        ({"nouns": ("acme", *"abcd")}, 1.0),
        ({"nouns": ("acme", *"abcdefghi")}, 1.0),
        ({"nouns": ("acme", *"abcdefghij")}, 0.1),
        ({"nouns": ("hat",)}, 0.0),
        ({"query": "hats", "product_category": "x", "nouns": ()}, 0.5),
        ({"query": "hats", "product_category": "Men › Clothing", "nouns": ("acme", *"abcd")}, 1.0),
        ({"query": "hats", "product_category": "Men › Men", "nouns": ("acme", *"abcd")}, 0.5),
    ],
)
def test_kind_of_product(goal: dict[str, Any], r_type: float) -> None:
    assert score(**goal).r_type == r_type
    assert score(**goal).total == r_type


def test_title_score_counts_repeated_goal_nouns_each() -> None:
    assert score(nouns=("wool", "wool", "hat", "cap")).title_score == 0.25


@pytest.mark.parametrize(
    ("wanted", "met"),
    [
        ("machine washable", True),
        ("washable by machine", True),
        ("made by hand", True),
        ("cold feet", True),
        ("warm and cosy", True),
        ("wool", True),
        ("feet made", False),
        ("dish washer", False),
    ],
)
def test_attributes_match_loosely_or_as_part_of_the_texts(wanted: str, met: bool) -> None:
    reward = score(attributes=(wanted, "machine washable"))
    assert reward.r_att == (1.0 if met else 0.5)
    assert reward.total == pytest.approx((1 + met + 1) / 3)


@pytest.mark.parametrize(
    ("chosen", "wanted", "met"),
    [
        ({"color": "dark red"}, ("dark ruby",), True),  # both become "dark"
        ({"color": "dark red"}, ("dark blue",), False),  # "blue" comes before "dark"
        ({"color": "navy"}, ("navy blue",), False),
        ({"size": "6.5"}, ("6",), True),
        ({"size": "large"}, ("x-large",), True),
        ({"size": "large"}, ("small",), False),
        ({}, ("large",), False),
        ({"size": "large"}, {"size": "large"}, True),
        ({"color": "navy"}, {"color": "navy"}, True),
        ({"color": "navy"}, {"color": "navy blue"}, True),
        ({"color": "navy"}, {"color": "red"}, False),
    ],
)
def test_options(chosen: dict[str, str], wanted: Any, met: bool) -> None:
    reward = score(chosen, options=wanted)
    assert reward.r_option == float(met)
    assert (reward.w_option, reward.w_att, reward.w_price) == (1 / 3, 1 / 3, 1 / 3)


def test_price() -> None:
    assert score(price_upper=9.0).r_price is True
    assert score(price_upper=8.99).r_price is False
    assert score(price_upper=8.99).total == 0.5
    assert "r_price" not in score(price_upper=0.0).parts()


def test_parts_leave_out_what_does_not_apply() -> None:
    assert "r_option" not in score().parts()
    assert set(score(options=("x",)).parts()) - set(score().parts()) == {"r_option", "w_option"}


def test_colors_are_the_originals() -> None:
    assert (len(COLORS), COLORS[0], COLORS[-1]) == (102, "alabaster", "yellow")
    assert list(COLORS) == sorted(COLORS)
    assert normalize_color("blush pink") == "blush"
    assert normalize_color("z-floral") == "z-floral"


@pytest.mark.parametrize(
    ("first", "second", "ratio"),
    [
        ("large", "x-large", 100),
        ("6", "6.5", 100),
        ("café", "caf", 100),
        ("easy clean", "easy to clean", 100),
        ("hand wash", "hand washed", 90),
        ("", "x", 0),
        ("日本", "日本 茶", 100),
    ],
)
def test_ratio_is_thefuzz(first: str, second: str, ratio: int) -> None:
    assert token_set_ratio(first, second) == ratio


WORDS = st.lists(
    st.sampled_from(["x-large", "large", "6", "6.5", "(pack", "café", "½", "|", "“q”", "日本", "ß"])
)


@settings(deadline=None)
@given(WORDS.map(" ".join) | st.text(), WORDS.map(" ".join) | st.text())
def test_ratio_equals_thefuzz(first: str, second: str) -> None:
    fuzz = pytest.importorskip("thefuzz.fuzz")
    assert token_set_ratio(first, second) == fuzz.token_set_ratio(first, second)
