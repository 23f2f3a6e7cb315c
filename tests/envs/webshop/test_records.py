"""Reading of the official files: streaming, and every defect that the real ones have."""

from __future__ import annotations

import json
import lzma
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eto_gym.envs.webshop.catalog import records
from eto_gym.envs.webshop.catalog.records import (
    iter_array,
    iter_object,
    parse_prices,
    parse_product,
    texts_of,
)
from eto_gym.errors import DataError
from tests.envs.webshop.support import record

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


def same(left: object, right: object) -> bool:
    """Equality in which NaN equals itself."""
    return repr(left) == repr(right)


@given(st.lists(JSON, max_size=6), st.integers(1, 9), st.sampled_from([None, 1]), st.booleans())
def test_streamed_arrays_equal_parsed_ones(
    tmp_path_factory: pytest.TempPathFactory,
    value: list[Any],
    chunk: int,
    indent: int | None,
    ascii_: bool,
) -> None:
    path = tmp_path_factory.mktemp("array") / "file.json"
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "CHUNK", chunk)
        assert same(list(iter_array(path)), json.loads(text))


@given(st.dictionaries(st.text(), JSON, max_size=5), st.integers(1, 9))
def test_streamed_objects_equal_parsed_ones(
    tmp_path_factory: pytest.TempPathFactory, value: dict[str, Any], chunk: int
) -> None:
    path = tmp_path_factory.mktemp("object") / "file.json"
    path.write_text(json.dumps(value), "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "CHUNK", chunk)
        assert same(dict(iter_object(path)), json.loads(json.dumps(value)))


def test_compressed_files_and_progress(tmp_path: Path) -> None:
    path = tmp_path / "file.json.xz"
    with lzma.open(path, "wt") as stream:
        json.dump([{"a": i} for i in range(5000)], stream)
    steps: list[int] = []
    assert len(list(iter_array(path, progress=steps.append))) == 5000
    assert sum(steps) == path.stat().st_size


def test_a_number_is_not_cut_at_the_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "CHUNK", 4)
    path = tmp_path / "file.json"
    path.write_text("[123456, -1.5e10]")
    assert list(iter_array(path)) == [123456, -1.5e10]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "{}",
        '"text"',
        "[1, 2",
        "[1, 2,",
        "[1 2]",
        "[1,, 2]",
        "[1, 2]]",
        '[{"a": 1}, {"b": ',
        '[{"a": "unterminated',
        "[tru]",
        "[" * 100_000,
        "[1] trailing",
        f"[1{'0' * 5000}]",
        f'[{{"asin": 1{"0" * 5000}}}]',
    ],
    ids=lambda text: repr(text[:40]),
)
def test_malformed_and_truncated_files_are_errors(tmp_path: Path, text: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"file\.json"):
        list(iter_array(path))


def test_a_malformed_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text('[{"a": oops}, ' + "1, " * (3 * records.CHUNK) + "1]")
    steps: list[int] = []
    with pytest.raises(DataError, match="malformed"):
        list(iter_array(path, progress=steps.append))
    assert sum(steps) < path.stat().st_size / 3


@pytest.mark.parametrize("content", [b"\xff\xfe[", b"[1, \xff]"])
def test_files_that_are_no_text(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(DataError):
        list(iter_array(path))


def test_truncated_compressed_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json.xz"
    path.write_bytes(lzma.compress(json.dumps(list(range(50_000))).encode())[:-400])
    with pytest.raises(DataError):
        list(iter_array(path))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        list(iter_array(tmp_path / "none.json"))


@pytest.mark.parametrize(
    ("pricing", "prices", "shown"),
    [
        ("$4.26", (4.26,), "$4.26"),
        ("$10", (10.0,), "$10.0"),
        ("$1,299.00", (1299.0,), "$1299.0"),
        ("$121.04 - $60.52", (121.04, 60.52), "$121.04 to $60.52"),
        ("$1.00 - $2.00 - $3.00", (1.0, 2.0), "$1.0 to $2.0"),
        (None, (100.0,), "$100.0"),
        ("", (100.0,), "$100.0"),
        ([], (100.0,), "$100.0"),
        (False, (100.0,), "$100.0"),
        # From here on the original crashed.
        ("12.50", (12.5,), "$12.5"),
        ("$", (100.0,), "$100.0"),
        ("$ - $", (100.0,), "$100.0"),
        ("$5 - $", (5.0,), "$5.0"),
        ("free", (100.0,), "$100.0"),
        ("$1.2.3", (100.0,), "$100.0"),
        ("$" + "9" * 400, (100.0,), "$100.0"),
        (19.99, (19.99,), "$19.99"),
        (True, (100.0,), "$100.0"),
    ],
)
def test_prices(pricing: object, prices: tuple[float, ...], shown: str) -> None:
    assert parse_prices(pricing) == prices
    product = parse_product(record("A", pricing=pricing))
    assert product is not None
    assert product.price_text == shown


@pytest.mark.parametrize("asin", [None, "", "nan", "B0123456789", "A\0B"])
def test_products_that_the_shop_does_not_list(asin: str | None) -> None:
    assert parse_product({**record("A"), "asin": asin}) is None
    assert parse_product({}) is None


def test_options_are_cleaned() -> None:
    options = {
        "Color": [{"value": " Red/Blue ", "image": "url"}, {"value": "Green", "image": None}],
        "Size": None,
        "Count": [{"value": 2}, {"value": None}, {}, "Six", 7.5],
        "Odd": "text",
        "COLOR": [{"value": "Last"}],
        "Empty": [],
    }
    product = parse_product(record("A", customization_options=options))
    assert product is not None
    assert product.options == {"color": ("last",), "count": ("2", "six", "7.5"), "empty": ()}
    assert list(product.options) == ["color", "count", "empty"]
    assert product.option_images == {"red | blue": "url"}


@pytest.mark.parametrize(
    ("field", "value", "attribute", "result"),
    [
        ("name", None, "title", ""),
        ("full_description", None, "description", ""),
        ("full_description", 5, "description", "5"),
        ("small_description", None, "bullets", ()),
        ("small_description", "one", "bullets", ("one",)),
        ("small_description", ["a", None, 3], "bullets", ("a", "", "3")),
        ("query", None, "query", ""),
        ("query", " Mugs ", "query", "mugs"),
        ("category", None, "category", ""),
        ("product_category", None, "product_category", ""),
        ("images", None, "image", ""),
        ("images", [], "image", ""),
        ("images", [None], "image", ""),
        ("images", ["u", "v"], "image", "u"),
        ("customization_options", "", "options", {}),
        ("customization_options", ["x"], "options", {}),
        ("name", "bad \ud83d half", "title", "bad \ufffd half"),
        ("name", "\ud83d\ude00", "title", "😀"),
    ],
)
def test_fields_of_the_wrong_kind(
    field: str, value: object, attribute: str, result: object
) -> None:
    product = parse_product({**record("A"), field: value})
    assert product is not None
    assert getattr(product, attribute) == result


@given(st.dictionaries(st.sampled_from(sorted(record("A"))), JSON))
def test_no_record_raises(fields: dict[str, Any]) -> None:
    product = parse_product({**record("A"), **fields})
    if product is not None:
        product.search_text.encode()
        assert 1 <= len(product.prices) <= 2
        assert all(math.isfinite(price) for price in product.prices)


def test_missing_fields() -> None:
    product = parse_product({"asin": "A"})
    assert product is not None
    assert (product.title, product.bullets, product.prices) == ("", (), (100.0,))


def test_search_text() -> None:
    product = parse_product(
        record(
            "A",
            "Red Mug",
            full_description="Big.",
            small_description=["First", "Second"],
            customization_options={"Size": [{"value": "S"}, {"value": "L"}], "Set": [{"value": 2}]},
        )
    )
    assert product is not None
    assert product.search_text == "red mug big. first size: s, l, and set: 2"


def test_texts_of() -> None:
    assert texts_of(None) == ()
    assert texts_of("a") == ("a",)
    assert texts_of(["a", None, 1]) == ("a", "1")
