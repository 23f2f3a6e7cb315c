"""The catalog: products, goals and prices as the original made them, shared by its users."""

from __future__ import annotations

import gc
import json
import pickle
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eto_gym.envs.webshop.catalog import goal_writer, goals
from eto_gym.envs.webshop.catalog.build import build_catalog
from eto_gym.envs.webshop.catalog.catalog import Catalog
from eto_gym.envs.webshop.catalog.goal_writer import draw_limit
from eto_gym.envs.webshop.catalog.goals import NO_LIMIT, Goal, GoalKind
from eto_gym.envs.webshop.catalog.nouns import make_tagger
from eto_gym.errors import (
    DataError,
    EtoGymError,
    MissingDependencyError,
    UnknownNameError,
)
from tests.envs.webshop.support import (
    GOLDEN,
    golden_file,
    golden_json,
    golden_lines,
    golden_tagger,
    needs_shared,
    record,
)


def options(**values: list[str]) -> dict[str, Any]:
    return {name: [{"value": value} for value in listed] for name, listed in values.items()}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Catalog]:
    """The recorded catalogs: from files into a folder, and from records in memory."""
    folder = build_catalog(
        products=golden_file("items_shuffle"),
        attributes=golden_file("items_ins_v2"),
        goals=golden_file("items_human_ins"),
        out=tmp_path_factory.mktemp("golden") / "index",
        tagger=golden_tagger(),
    )
    in_memory = Catalog.from_records(
        golden_json("items_shuffle"),
        attributes=golden_json("items_ins_v2_missing"),
        human=golden_json("items_human_ins"),
        tagger=golden_tagger(),
    )
    return {"synthetic": Catalog.open(folder), "human": in_memory}


class TestRecorded:
    pytestmark = needs_shared

    @pytest.mark.parametrize("kind", ["human", "synthetic"])
    def test_prices(self, recorded: dict[str, Catalog], kind: GoalKind) -> None:
        name = {"human": "prices_human.json", "synthetic": "prices_synth.json"}[kind]
        prices = json.loads((GOLDEN / name).read_text("utf-8"))
        catalog = recorded[kind]
        assert {catalog.asin(i): catalog.product(i).price for i in range(len(catalog))} == prices

    @pytest.mark.parametrize("kind", ["human", "synthetic"])
    def test_goals(self, recorded: dict[str, Catalog], kind: GoalKind) -> None:
        name = {"human": "goals_human", "synthetic": "goals_synth"}[kind]
        lines = list(golden_lines(name))
        found = recorded[kind].goals(kind)
        assert len(found) == len(lines) == {"human": 629, "synthetic": 5952}[kind]
        for goal, line in zip(found, lines, strict=True):
            assert as_recorded(goal) == {key: line[key] for key in as_recorded(goal)}
            assert goal.weight == pytest.approx(line["weight"], rel=1e-12)

    def test_both_ways_to_build_agree(self, recorded: dict[str, Catalog]) -> None:
        folder = recorded["synthetic"]
        memory = Catalog.from_records(
            golden_json("items_shuffle"),
            attributes=golden_json("items_ins_v2"),
            human=golden_json("items_human_ins"),
            tagger=golden_tagger(),
        )
        assert len(folder) == len(memory) == 986
        for i in range(len(folder)):
            assert folder.product(i) == memory.product(i)
        for kind in goals.GOAL_KINDS:
            assert list(folder.goals(kind)) == list(memory.goals(kind))
        for query in ("red dress", "日本", "coffee table"):
            assert folder.search(query) == memory.search(query)

    def test_seed_changes_prices_but_not_the_goals_order(
        self, recorded: dict[str, Catalog]
    ) -> None:
        other = Catalog.from_records(
            golden_json("items_shuffle"),
            attributes=golden_json("items_ins_v2_missing"),
            human=golden_json("items_human_ins"),
            tagger=golden_tagger(),
            seed=1,
        )
        mine, theirs = recorded["human"].goals("human"), other.goals("human")
        assert [g.asin for g in mine] == [g.asin for g in theirs]
        assert [g.attributes for g in mine] == [g.attributes for g in theirs]
        assert [g.price_upper for g in mine] != [g.price_upper for g in theirs]


def as_recorded(goal: Goal) -> dict[str, Any]:
    return {
        "idx": goal.index,
        "asin": goal.asin,
        "category": goal.category,
        "query": goal.query,
        "name": goal.name,
        "product_category": goal.product_category,
        "instruction_text": goal.instruction,
        "attributes": list(goal.attributes),
        "price_upper": goal.price_upper,
        "goal_options": list(goal.options) if isinstance(goal.options, tuple) else goal.options,
    }


def test_products_keep_the_file_order_and_the_first_of_each_asin() -> None:
    records = [
        record("B2", "Second"),
        record("B1", "First"),
        record("B2", "Repeat"),
        record("nan"),
        record("TOO-LONG-ASIN"),
        record("b1", "Lower"),
    ]
    catalog = Catalog.from_records(records)
    assert [catalog.asin(i) for i in range(len(catalog))] == ["B2", "B1", "b1"]
    assert catalog.title(0) == "Second"
    assert catalog.find("B1") == 1
    assert catalog.find("b1") == 2
    assert catalog.find("B") is None
    assert catalog.find("\ud800") is None
    assert catalog.product("b1").title == "Lower"


@pytest.mark.parametrize("ref", ["B9", "", "\ud800", -1, 1])
def test_unknown_products(ref: str | int) -> None:
    with pytest.raises(UnknownNameError, match="expected an asin or an index"):
        Catalog.from_records([record("B1")]).product(ref)


def test_facets() -> None:
    catalog = Catalog.from_records(
        [
            record("A1", query="Desks ", category="garden"),
            record("A2", query="mugs", category="beauty"),
            record("A3", query="desks", category="garden"),
        ],
        attributes={
            "A1": {"attributes": ["easy clean", "easy clean"]},
            "A3": {"attributes": ["easy clean", "solid wood"]},
            "A9": {"attributes": ["never"]},
        },
    )
    assert catalog.with_query("desks") == [0, 2]
    assert catalog.with_query("Desks") == []
    assert catalog.with_category("garden") == [0, 2]
    assert catalog.with_attribute("easy clean") == [0, 2]
    assert catalog.with_attribute("solid wood") == [2]
    assert catalog.with_attribute("never") == []
    assert catalog.with_attribute("DUMMY_ATTR") == [1]
    assert catalog.product(0).attributes == ("easy clean", "easy clean")
    assert catalog.product(1).attributes == ("DUMMY_ATTR",)


@pytest.mark.parametrize("entry", [None, 5, "text", [], {"attributes": None}, {"attributes": "x"}])
def test_odd_attribute_entries(entry: object) -> None:
    catalog = Catalog.from_records([record("A1")], attributes={"A1": entry})
    expected = {"{'attributes': None}": (), "{'attributes': 'x'}": ("x",)}
    assert catalog.product(0).attributes == expected.get(str(entry), ("DUMMY_ATTR",))
    assert len(catalog.goals("synthetic")) == 0


def test_prices_are_drawn_from_ranges_as_the_original_does() -> None:
    prices = ["$5.00", "$1.00 - $2.00", None, "$9.00 - $3.00 - $1.00"]
    catalog = Catalog.from_records(
        [record(f"A{i}", pricing=p) for i, p in enumerate(prices)], seed=7
    )
    generator = random.Random(7)
    expected = [5.0, generator.uniform(1.0, 2.0), 100.0, generator.uniform(9.0, 3.0)]
    assert [catalog.product(i).price for i in range(4)] == expected
    assert catalog.price_text(3) == "$9.0 to $3.0"


@pytest.mark.parametrize(
    ("price", "limits"),
    [
        (10.0, {30.0, 40.0, 50.0}),
        (9.99, {20.0, 30.0, 40.0}),
        (965.0, {980.0, 990.0}),
        (979.0, {990.0}),
        (980.0, {NO_LIMIT}),
        (5000.0, {NO_LIMIT}),
    ],
)
def test_price_limits(price: float, limits: set[float]) -> None:
    generator = random.Random(0)
    assert {draw_limit(price, generator) for _ in range(200)} == limits


def test_building_leaves_the_global_generators_alone() -> None:
    random.seed(5)
    before = random.getstate()
    Catalog.from_records([record("A1", pricing="$1 - $2")], human={"A1": [human_goal()]})
    assert random.getstate() == before


def human_goal(**fields: Any) -> dict[str, Any]:
    return {
        "instruction": "i want a mug...",
        "instruction_attributes": ["easy clean"],
        "instruction_options": ["red"],
        **fields,
    }


def test_human_goals() -> None:
    human = {
        "A1": [
            human_goal(),
            human_goal(instruction_attributes=[]),
            human_goal(instruction_attributes=None),
            human_goal(instruction=None, instruction_options=None),
            "odd",
        ],
        "A2": {"not": "a list"},
        "A3": [human_goal()],
        "A9": [human_goal()],
    }
    catalog = Catalog.from_records(
        [record("A1"), record("A2"), record("A3", pricing="$2,000.00")], human=human
    )
    goals = catalog.goals("human")
    assert sorted(goal.asin for goal in goals) == ["A1", "A1", "A3"]
    texts = {goal.asin: goal.instruction for goal in goals if goal.options}
    assert texts["A1"].startswith("i want a mug, and price lower than ")
    assert texts["A1"].endswith("0.00 dollars")
    assert texts["A3"] == "i want a mug"
    assert next(goal for goal in goals if goal.asin == "A3").price_upper == NO_LIMIT


def test_synthetic_goals_are_all_option_combinations() -> None:
    entry = {
        "instruction": "Find me easy clean mugs",
        "instruction_attributes": ["easy clean", "red"],
    }
    catalog = Catalog.from_records(
        [
            record(
                "A1",
                pricing="$2,000",
                customization_options=options(Size=["S", "L"], Color=["Red", "Blue", "Tan"]),
            ),
            record("A2", pricing="$2,000"),
            record("A3", customization_options=options(Size=[])),
        ],
        attributes={
            "A1": entry,
            "A2": {**entry, "instruction_attributes": ["red"]},
            "A3": entry,
        },
    )
    goals = catalog.goals("synthetic")
    assert Counter(goal.asin for goal in goals) == {"A1": 6, "A2": 1}
    chosen = {tuple(goal.options.items()) for goal in goals if isinstance(goal.options, dict)}
    assert chosen == {
        (),
        *((("color", c), ("size", s)) for c in ("red", "blue", "tan") for s in "sl"),
    }
    assert {goal.instruction for goal in goals} >= {
        "Find me easy clean mugs",
        "Find me easy clean mugs with color: tan, and size: l",
    }
    weights = {goal.asin: goal.weight for goal in goals}
    assert weights == {"A1": (1 / 6 + 1 / 7) / 2, "A2": 1 / 7}


def test_too_many_synthetic_goals(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(goal_writer, "MAX_SYNTHETIC", 3)
    products, attributes = tmp_path / "p.json", tmp_path / "a.json"
    products.write_text(
        json.dumps([record("A1", customization_options=options(Size=list("abcd")))])
    )
    entry = {"instruction": "Find me", "instruction_attributes": ["x"]}
    attributes.write_text(json.dumps({"A1": entry}))
    with pytest.raises(DataError, match="--no-synthetic"):
        build_catalog(products=products, attributes=attributes, goals=None, out=tmp_path / "i")
    folder = build_catalog(
        products=products, attributes=attributes, goals=None, out=tmp_path / "i", synthetic=False
    )
    assert len(Catalog.open(folder).goals("synthetic")) == 0


def test_goals_are_drawn_by_weight() -> None:
    entry = {"instruction": "Find me", "instruction_attributes": ["x"]}
    catalog = Catalog.from_records(
        [record("A1", customization_options=options(Size=list("abc"))), record("A2")],
        attributes={"A1": entry, "A2": {**entry, "instruction_attributes": ["y"]}},
    )
    goals = catalog.goals("synthetic")
    generator = np.random.default_rng(0)
    drawn = Counter(goals.draw(generator) for _ in range(6000))
    # One goal has weight 1, three have 1/3 each; the first and the last are drawn as they should.
    for goal in goals:
        assert drawn[goal.index] == pytest.approx(6000 * goal.weight / 2, rel=0.1)


def test_a_kind_without_goals() -> None:
    goals = Catalog.from_records([record("A1")]).goals("human")
    assert len(goals) == 0
    with pytest.raises(EtoGymError, match="no human goal"):
        goals.draw(np.random.default_rng(0))
    with pytest.raises(IndexError):
        goals[0]


def test_an_unknown_kind_of_goals() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'human'"):
        Catalog.from_records([record("A1")]).goals("humans")  # type: ignore[arg-type]


def test_one_instance_per_folder_as_long_as_it_is_used(small_folder: Path) -> None:
    first = Catalog.open(small_folder)
    assert Catalog.open(str(small_folder)) is first
    assert Catalog.open(small_folder / ".." / small_folder.name) is first
    assert pickle.loads(pickle.dumps(first)) is first  # noqa: S301
    key = id(first)
    del first
    gc.collect()
    assert key not in {id(catalog) for catalog in Catalog._opened.values()}


def test_a_catalog_in_memory_is_pickled_whole() -> None:
    catalog = Catalog.from_records([record("A1"), record("A2", "Blue Mug")])
    again = pickle.loads(pickle.dumps(catalog))  # noqa: S301
    assert again.search("blue") == [1]
    assert again.card() == catalog.card()


def test_threads_share_a_catalog(small_folder: Path) -> None:
    catalog = Catalog.open(small_folder)
    queries = ["red mug", "blue mug", "mug", "green cup", "cup"] * 40
    expected = {query: Catalog.open(small_folder).search(query) for query in set(queries)}
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(catalog._engine.top_products, queries))
    assert found == [expected[query] for query in queries]


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    colours, things = ("Red", "Blue", "Green"), ("Mug", "Cup", "Bowl")
    records = [record(f"A{i}", f"{colours[i % 3]} {things[i // 3 % 3]}") for i in range(60)]
    (folder / "p.json").write_text(json.dumps(records))
    (folder / "a.json").write_text("{}")
    return build_catalog(
        products=folder / "p.json", attributes=folder / "a.json", goals=None, out=folder / "index"
    )


def test_results_are_fresh_lists(small_folder: Path) -> None:
    catalog = Catalog.open(small_folder)
    catalog.search("mug").clear()
    assert len(catalog.search("mug")) == 21


def test_card(small_folder: Path) -> None:
    card = Catalog.open(small_folder).card()
    assert json.loads(json.dumps(card)) == card
    assert card["products"] == 60
    assert card["tagger"] == "rules"
    assert card["seed"] == 0
    assert "files" not in card


class TestTaggers:
    def test_the_rule_tagger(self) -> None:
        tagger = make_tagger("rules")
        assert list(tagger.nouns(["Soft Women's Dress for 2, in Black", "", "100% 12-Pack"])) == [
            ("women's", "dress"),
            (),
            (),
        ]

    def test_nouns_keep_repeats_and_lower_case(self) -> None:
        catalog = Catalog.from_records([record("A1", "Mug and Mug Tree")])
        assert catalog.product(0).nouns == ("mug", "mug", "tree")

    def test_a_callable_is_recorded_by_name(self) -> None:
        catalog = Catalog.from_records([record("A1", "a b")], tagger=shouting)
        assert catalog.card()["tagger"].endswith("test_catalog.shouting")
        assert catalog.product(0).nouns == ("a", "b")

    def test_given_nouns(self) -> None:
        catalog = Catalog.from_records([record("A1", nouns=["mug", "gift"])], tagger="given")
        assert catalog.product(0).nouns == ("mug", "gift")
        assert catalog.card()["tagger"] == "given"

    def test_unknown_names(self) -> None:
        with pytest.raises(UnknownNameError, match="expected tagger"):
            make_tagger("nltk")

    def test_spacy_is_only_needed_when_asked_for(self) -> None:
        try:
            import spacy  # noqa: F401
        except ImportError:
            with pytest.raises(MissingDependencyError, match=r"eto-gym\[webshop-build\]"):
                make_tagger("spacy:en_core_web_sm")
        else:
            with pytest.raises(MissingDependencyError, match="spacy download no_such_model"):
                make_tagger("spacy:no_such_model")

    def test_a_spacy_model(self, tmp_path: Path) -> None:
        spacy = pytest.importorskip("spacy")
        nlp = spacy.blank("en")
        ruler = nlp.add_pipe("attribute_ruler")
        ruler.add([[{"LOWER": "mug"}], [{"LOWER": "trees"}]], {"POS": "NOUN"})
        ruler.add([[{"LOWER": "acme"}]], {"POS": "PROPN"})
        ruler.add([[{"LOWER": "red"}]], {"POS": "ADJ"})
        nlp.meta["version"] = "1.2.3"
        nlp.to_disk(tmp_path / "model")
        tagger = make_tagger(f"spacy:{tmp_path / 'model'}")
        assert tagger.name == f"spacy:{tmp_path / 'model'}-1.2.3"
        assert list(tagger.nouns(["Red Mug Mug trees", "", "ACME red"])) == [
            ("mug", "mug", "trees"),
            (),
            ("acme",),
        ]


class _Token:
    def __init__(self, text: str) -> None:
        self.text = text.upper()
        self.pos_ = "PROPN"


def shouting(text: str) -> list[_Token]:
    return [_Token(word) for word in text.split()]
