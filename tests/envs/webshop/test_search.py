"""Search results against Lucene's recorded lists and against plain exhaustive scoring."""

from __future__ import annotations

import importlib.util
import json
import math
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eto_gym.envs.webshop.catalog.catalog import Catalog
from eto_gym.envs.webshop.catalog.records import iter_array, parse_product
from eto_gym.envs.webshop.search import search as search_module
from eto_gym.envs.webshop.search.analysis import analyze
from eto_gym.envs.webshop.search.postings import PostingsBuilder, decode_length, encode_length
from eto_gym.envs.webshop.search.search import Search
from eto_gym.envs.webshop.store import MemoryWriter, Store
from tests.envs.webshop.support import SHARED, golden_file, golden_lines, record

ARCHIVE_100K = SHARED / "data" / "webshop" / "catalog100k.tar.xz"

COMPILED = [
    False,
    pytest.param(
        True,
        marks=pytest.mark.skipif(
            importlib.util.find_spec("numba") is None, reason="numba is not installed"
        ),
    ),
]


def search_index(records: Iterator[Any]) -> Store:
    """What `Search` needs of a catalog: the asins and the postings."""
    writer = MemoryWriter()
    postings = PostingsBuilder(writer)
    asins: dict[str, None] = {}
    for raw in records:
        product = parse_product(raw)
        if product is not None and product.asin not in asins:
            asins[product.asin] = None
            postings.add(product.search_text)
    writer.texts("asins").extend(asins)
    writer.add("asin_ranks", np.argsort(np.argsort(list(asins))).astype(np.int32))
    postings.finish()
    return writer.finish({"searchable_products": postings.documents})


@pytest.fixture(scope="module")
def index_1k() -> Store:
    return search_index(iter_array(golden_file("items_shuffle")))


@pytest.fixture(scope="module")
def index_100k(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("catalog100k")
    name = "catalog100k/items_shuffle.json"
    with tarfile.open(ARCHIVE_100K) as archive:
        archive.extract(name, folder, filter="data")
    path = folder / name
    try:
        return search_index(iter_array(path))
    finally:
        path.unlink()


@pytest.mark.shared
@pytest.mark.skipif(not ARCHIVE_100K.is_file(), reason=f"{ARCHIVE_100K} is absent")
@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("size", ["1k", "100k"])
def test_every_recorded_list(size: str, compiled: bool, request: pytest.FixtureRequest) -> None:
    search = Search(request.getfixturevalue(f"index_{size}"), compiled=compiled)
    lists = list(golden_lines(f"lucene_top50_{size}"))
    assert len(lists) == 1000
    assert any(not line["query"].isascii() for line in lists)
    wrong = [line["query"] for line in lists if search.top(line["query"]) != line["asins"]]
    assert wrong == []
    # The recorded scores are rounded to four digits, and ties among them were pulled apart.
    for line in lists[::50]:
        scores = search.top_scored(line["query"])[1]
        assert scores == pytest.approx(line["scores"], abs=2e-4)


# --- exhaustive scoring --------------------------------------------------------------------------

WORDS = ["red", "blue", "mug", "cup", "tea", "box", "lamp", "desk"]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)


def exhaustive(texts: list[str], query: str, k: int) -> list[tuple[int, float]]:
    """BM25 as Lucene computes it, one product at a time."""
    f32 = np.float32
    documents = [analyze(text.lower()) for text in texts]
    filled = [document for document in documents if document]
    total = sum(map(len, filled))
    average = f32(total / max(1, len(filled)))
    found = []
    for index, document in enumerate(documents):
        counts = Counter(document)
        length = f32(decode_length(encode_length(len(document))))
        score, hit = 0.0, False
        for term, boost in Counter(analyze(query)).items():
            frequency = sum(term in other for other in documents)
            if not counts[term]:
                continue
            hit = True
            idf = f32(math.log(1 + (len(filled) - frequency + 0.5) / (frequency + 0.5)))
            weight = f32(boost) * idf
            inverse = f32(1) / (f32(0.9) * ((f32(1) - f32(0.4)) + f32(0.4) * length / average))
            score += float(weight - weight / (f32(1) + f32(counts[term]) * inverse))
        if hit:
            found.append((index, float(f32(score))))
    # Asins are A00, A01, ...: their order is the index's.
    return sorted(found, key=lambda pair: (-pair[1], pair[0]))[:k]


@pytest.mark.parametrize("small", [0, search_module.SMALL], ids=["pruned", "whole"])
@pytest.mark.parametrize("compiled", COMPILED)
@settings(deadline=None, max_examples=150)
@given(
    texts=st.lists(TEXTS, min_size=1, max_size=40),
    query=st.lists(st.sampled_from([*WORDS, "absent"]), max_size=7).map(" ".join),
    k=st.integers(1, 12),
)
def test_both_ways_to_search_equal_exhaustive_search(
    small: int, compiled: bool, texts: list[str], query: str, k: int
) -> None:
    records = (record(f"A{i:02}", text) for i, text in enumerate(texts))
    search = Search(search_index(records), compiled=compiled)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_module, "SMALL", small)
        for _ in range(2):  # the second run finds the scratch array as the first one left it
            products, scores = search.top_scored(query, k)
            found = list(zip(products.tolist(), scores.tolist(), strict=True))
            assert found == exhaustive(texts, query, k)


def test_ties_are_ordered_by_the_bytes_of_asins() -> None:
    asins = ["b1", "B2", "é1", "0Z", "B10", "😀", "ﬀ"]
    search = Search(search_index(iter([record(asin, "mug") for asin in asins])))
    assert search.top("mug") == ["0Z", "B10", "B2", "b1", "é1", "ﬀ", "😀"]


@pytest.mark.parametrize("query", ["", "   ", "the of and", "zzqxv", "!?", "\ud800", "\0", "日本"])
def test_queries_that_match_nothing(query: str) -> None:
    search = Search(search_index(iter([record("A1", "Red Mug")])))
    assert search.top(query) == []


@given(st.text())
def test_any_query_is_answered(query: str) -> None:
    assert Catalog.from_records([record("A1", "Red Mug")]).search(query) in ([], [0])


@pytest.mark.parametrize("compiled", COMPILED)
def test_a_query_of_very_many_words_equals_exhaustive_search(
    compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    names = [f"w{number}" for number in range(300)]
    texts = [" ".join(rng.choice(names, 12)) for _ in range(99)]
    search = Search(
        search_index(iter([record(f"A{i:02}", text) for i, text in enumerate(texts)])),
        compiled=compiled,
    )
    monkeypatch.setattr(search_module, "SMALL", 0)
    query = " ".join(names[:150])
    products, scores = search.top_scored(query, 3)
    found = list(zip(products.tolist(), scores.tolist(), strict=True))
    assert found == exhaustive(texts, query, 3)


def test_of_a_query_beyond_all_measure_the_beginning_counts() -> None:
    catalog = Catalog.from_records([record("A1", "Red Mug"), record("A2", "Cup")])
    assert sorted(catalog.search("mug " + "x " * 7_000 + "cup")) == [0, 1]
    assert catalog.search("mug " + "x " * 1_000_000 + "cup") == [0]
    assert len(next(iter(catalog._searched))[0]) <= search_module.MAX_QUERY


def test_repeated_terms_count_as_often_as_they_occur() -> None:
    records = [record("A1", "red mug"), record("A2", "blue cup"), record("A3", "red")]
    search = Search(search_index(iter(records)))
    single = search.top_scored("blue")[1]
    assert search.top_scored("blue blue blue")[1] == pytest.approx(3 * single)


def test_products_without_a_word_do_not_count() -> None:
    records = [record("A1", "red mug", customization_options={}), {"asin": "A2"}, {"asin": "A3"}]
    store = search_index(iter(records))
    assert store.manifest["searchable_products"] == 1
    assert Search(store).top("red") == ["A1"]


@pytest.mark.parametrize("k", [0, -1])
def test_k_must_be_positive(k: int) -> None:
    with pytest.raises(ValueError, match="expected k >= 1"):
        Search(search_index(iter([record("A1")]))).top("mug", k)


def test_lengths_are_stored_as_lucene_stores_them() -> None:
    assert [decode_length(encode_length(n)) for n in range(41)] == list(range(41))
    # Above 40 four significant bits of what exceeds 24 are kept, rounded down.
    assert [decode_length(encode_length(n)) for n in (41, 42, 43, 55, 56, 59, 60, 1000, 10**6)] == [
        40, 42, 42, 54, 56, 56, 60, 984, 983064,
    ]  # fmt: skip
    codes = [encode_length(n) for n in range(100_000)]
    assert codes == sorted(codes)
    assert all(encode_length(decode_length(code)) == code for code in range(200))


def test_search_over_a_folder(tmp_path: Path) -> None:
    from eto_gym.envs.webshop.catalog.build import build_catalog

    (tmp_path / "p.json").write_text(json.dumps([record("A1", "Red Mug"), record("A2", "Cup")]))
    (tmp_path / "a.json").write_text("{}")
    folder = build_catalog(
        products=tmp_path / "p.json", attributes=tmp_path / "a.json", goals=None,
        out=tmp_path / "index",
    )  # fmt: skip
    assert Search(folder).top("cups") == ["A2"]
    assert Search(str(folder)).top("mug cup", k=1) == ["A2"]
