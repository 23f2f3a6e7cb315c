"""Building of a catalog: once, streaming, into memory or into an index folder."""

from __future__ import annotations

import hashlib
import json
import random
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from eto_gym.envs.webshop.catalog.goal_writer import GoalWriter
from eto_gym.envs.webshop.catalog.nouns import GIVEN, RULES, Tagger, TaggerFunction, make_tagger
from eto_gym.envs.webshop.catalog.records import (
    NO_ATTRIBUTES,
    ProductRecord,
    Progress,
    iter_array,
    iter_object,
    parse_product,
    texts_of,
)
from eto_gym.envs.webshop.search.postings import PostingsBuilder
from eto_gym.envs.webshop.store import Array, FolderWriter, Writer
from eto_gym.errors import DataError

_BATCH = 1024
"""Products tagged at a time."""


def build_catalog(
    *,
    products: str | Path,
    attributes: str | Path,
    goals: str | Path | None,
    out: str | Path,
    seed: int = 0,
    tagger: str | TaggerFunction = RULES,
    synthetic: bool = True,
    limit: int | None = None,
    progress: Callable[[str, int, int], object] | None = None,
) -> Path:
    """Build an index folder from the official files.

    The folder appears when it is complete. Memory grows with the number of products and distinct
    words, not with their texts: 2 GB for 1.18 million products.

    Args:
        products: items_shuffle.json, or its 1,000-product variant; `.xz` is read too.
        attributes: items_ins_v2.json of the same products.
        goals: items_human_ins.json; None builds without human goals.
        out: The folder to write; must not exist yet.
        seed: Seed of prices and price limits. The original draws them from an unseeded generator;
            0, the default, gives the values of a process that called `random.seed(0)`.
        tagger: Where nouns come from, see `eto_gym.envs.webshop.catalog.nouns.make_tagger`.
        synthetic: Make synthetic goals too.
        limit: Read only this many records of the product file.
        progress: Called with (file name, bytes read, bytes of the file) now and then.

    Returns:
        The folder.

    Raises:
        DataError: A file is missing or malformed, or `out` exists.
        MissingDependencyError: The tagger is not installed.
    """
    if limit is not None and limit < 1:
        raise DataError(f"expected a limit of at least 1 record, got {limit}")
    folder = Path(out)
    paths = {"products": Path(products), "attributes": Path(attributes)}
    if goals is not None:
        paths["goals"] = Path(goals)
    for path in paths.values():
        if not path.is_file():
            raise DataError(f"there is no file {path}")
    make_tagger(tagger)

    with FolderWriter(folder) as writer:
        human = dict(iter_object(paths["goals"])) if "goals" in paths else {}
        entries = _PackedEntries(
            iter_object(paths["attributes"], progress=_meter(paths["attributes"], progress))
        )
        records = iter_array(paths["products"], progress=_meter(paths["products"], progress))
        manifest = assemble(
            writer, islice(records, limit), attributes=entries, human=human, seed=seed,
            tagger=tagger, synthetic=synthetic,
        )  # fmt: skip
        manifest["sources"] = {
            role: {"name": path.name, "sha256": _sha256(path)} for role, path in paths.items()
        }
        writer.finish(manifest)
    return folder


def assemble(
    writer: Writer,
    products: Iterable[Mapping[str, Any]],
    *,
    attributes: Mapping[str, Any],
    human: Mapping[str, Any],
    seed: int,
    tagger: str | TaggerFunction,
    synthetic: bool = True,
) -> dict[str, Any]:
    """Write everything that a `Catalog` reads; return the manifest's entries.

    Raises:
        DataError: There is not one product.
    """
    generator = random.Random(seed)
    columns = _Columns(writer)
    postings = PostingsBuilder(writer)
    goals = GoalWriter(writer, human=human, synthetic=synthetic)
    name, tagged = _tag(_clean(products), tagger)
    for index, (record, nouns) in enumerate(tagged):
        raw = attributes.get(record.asin)
        entry = raw if isinstance(raw, Mapping) else {}
        price = record.prices[0]
        if len(record.prices) > 1:
            price = generator.uniform(*record.prices)
        columns.add(
            record,
            price,
            nouns,
            texts_of(entry.get("attributes")) if "attributes" in entry else NO_ATTRIBUTES,
        )
        postings.add(record.search_text)
        goals.add(index, record.asin, price, record.options, entry)
    if not columns.count:
        raise DataError("the product file lists no product")
    columns.finish()
    terms = postings.finish()
    return {
        "products": columns.count,
        "searchable_products": postings.documents,
        "terms": terms,
        "goals": goals.finish(generator),
        "seed": seed,
        "tagger": name,
    }


def _clean(products: Iterable[Mapping[str, Any]]) -> Iterator[tuple[ProductRecord, Any]]:
    """Yield the products that the shop lists, the first of each asin, with their own nouns."""
    seen = set()
    for raw in products:
        record = parse_product(raw) if isinstance(raw, Mapping) else None
        if record is not None and record.asin not in seen:
            seen.add(record.asin)
            yield record, raw.get("nouns")


def _tag(
    records: Iterator[tuple[ProductRecord, Any]], tagger: str | TaggerFunction
) -> tuple[str, Iterator[tuple[ProductRecord, tuple[str, ...]]]]:
    """Return the tagger's name, and the records with the nouns of their titles."""
    if tagger == GIVEN:
        return GIVEN, ((record, texts_of(nouns)) for record, nouns in records)
    made = make_tagger(tagger)
    return made.name, _tag_batches(records, made)


def _tag_batches(
    records: Iterator[tuple[ProductRecord, Any]], tagger: Tagger
) -> Iterator[tuple[ProductRecord, tuple[str, ...]]]:
    while batch := [record for record, _ in islice(records, _BATCH)]:
        yield from zip(batch, tagger.nouns(record.title for record in batch), strict=True)


class _Columns:
    """Writes the products' own columns."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._titles = writer.texts("titles")
        self._price_texts = writer.texts("price_texts")
        self._details = writer.texts("details")
        self._asins: list[str] = []
        self._prices = array("d")
        self._facets = {name: _FacetWriter() for name in ("category", "query", "path", "attribute")}

    @property
    def count(self) -> int:
        """How many products were added."""
        return len(self._asins)

    def add(
        self,
        record: ProductRecord,
        price: float,
        nouns: tuple[str, ...],
        attributes: tuple[str, ...],
    ) -> None:
        """Add the next product."""
        facets = self._facets
        facets["category"].add(self.count, record.category)
        facets["query"].add(self.count, record.query)
        facets["path"].add(self.count, record.product_category)
        for attribute in dict.fromkeys(attributes):
            facets["attribute"].add(self.count, attribute)
        self._asins.append(record.asin)
        self._prices.append(price)
        self._titles.append(record.title)
        self._price_texts.append(record.price_text)
        details = (
            record.description, record.bullets, record.options, attributes, nouns, record.image,
            record.option_images,
        )  # fmt: skip
        self._details.append(json.dumps(details, ensure_ascii=False, separators=(",", ":")))

    def finish(self) -> None:
        """Write what was kept in memory."""
        self._writer.texts("asins").extend(self._asins)
        # The code points' order of str is the byte order of UTF-8.
        order = np.array(sorted(range(self.count), key=self._asins.__getitem__), np.int32)
        ranks = np.empty_like(order)
        ranks[order] = np.arange(self.count, dtype=np.int32)
        self._writer.add("asin_order", order)
        self._writer.add("asin_ranks", ranks)
        self._writer.add("prices", np.asarray(self._prices, np.float64))
        for name, facet in self._facets.items():
            facet.write(self._writer, name)


class _FacetWriter:
    """Numbers the values of a property and lists the products of each."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._products = array("i")
        self._values = array("i")

    def add(self, product: int, value: str) -> None:
        """Note that the product has this value."""
        self._products.append(product)
        self._values.append(self._numbers.setdefault(value, len(self._numbers)))

    def write(self, writer: Writer, name: str) -> None:
        """Write the sorted values, each product's value, and each value's products."""
        names = sorted(self._numbers)
        ranks = np.zeros(len(names), np.int32)
        ranks[[self._numbers[value] for value in names]] = np.arange(len(names), dtype=np.int32)
        codes: Array = ranks[np.asarray(self._values, np.int32)]
        order = np.argsort(codes, kind="stable")
        starts = np.zeros(len(names) + 1, np.int64)
        np.cumsum(np.bincount(codes, minlength=len(names)), out=starts[1:])
        writer.texts(f"{name}_names").extend(names)
        writer.add(f"{name}_codes", codes)
        writer.add(f"{name}_starts", starts)
        writer.add(f"{name}_products", np.asarray(self._products, np.int32)[order])


class _PackedEntries(Mapping[str, Any]):
    """The attribute file's entries, kept as JSON because a million parsed ones are too large."""

    def __init__(self, entries: Iterable[tuple[str, Any]]) -> None:
        self._packed = {
            asin: json.dumps(entry, separators=(",", ":")).encode() for asin, entry in entries
        }

    def __getitem__(self, asin: str) -> Any:
        return json.loads(self._packed[asin])

    def __len__(self) -> int:
        return len(self._packed)

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)


def _meter(path: Path, progress: Callable[[str, int, int], object] | None) -> Progress | None:
    if progress is None:
        return None
    done, size = 0, path.stat().st_size

    def advance(step: int) -> None:
        nonlocal done
        done += step
        progress(path.name, done, size)

    return advance


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
