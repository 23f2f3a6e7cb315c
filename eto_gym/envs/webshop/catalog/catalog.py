"""The read-only catalog: products, goals and search, shared by every environment of a process."""

from __future__ import annotations

import json
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from eto_gym.envs.webshop.catalog.goals import GOAL_KINDS, GoalKind, Goals
from eto_gym.envs.webshop.catalog.nouns import RULES, TaggerFunction
from eto_gym.envs.webshop.catalog.product import Product
from eto_gym.envs.webshop.search.search import MAX_QUERY, Search
from eto_gym.envs.webshop.store import MANIFEST, Store, damaged
from eto_gym.errors import UnknownNameError, check_choice

_UNCARDED = frozenset({"files", "format", "sha256"})
"""Parts of a manifest that say nothing about rewards and observations."""

_RECENT = 512
"""Decoded products, and results of queries, kept per catalog: a few megabytes."""


class Catalog:
    """Products, goals and search of one shop; immutable, and safe to share.

    Example:
        >>> record = {"asin": "B000000001", "name": "Red Mug", "pricing": "$5.00", "images": []}
        >>> catalog = Catalog.from_records([record])
        >>> catalog.search("mugs")
        [0]
        >>> catalog.product("B000000001").nouns
        ('mug',)
    """

    _opened: ClassVar[weakref.WeakValueDictionary[tuple[str, int], Catalog]] = (
        weakref.WeakValueDictionary()
    )
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, store: Store, *, name: str, folder: Path | None = None) -> None:
        """Wrap a store; use `open` or `from_records`."""
        self.name = name
        self.folder = folder
        self._store = store
        self._asins = store.texts("asins")
        count = len(self._asins)
        self._titles = store.texts("titles", size=count)
        self._prices_shown = store.texts("price_texts", size=count)
        self._details = store.texts("details", size=count)
        self._prices = store.floats("prices", size=count)
        self._by_asin = store.indices("asin_order", below=count, size=count)
        self._facets = {
            facet: _Facet(store, facet, count) for facet in ("category", "query", "attribute")
        }
        self._paths = store.texts("path_names")
        names = {facet: len(self._facets[facet].names) for facet in ("category", "query")}
        self._codes = {
            facet: store.indices(f"{facet}_codes", below=below, size=count)
            for facet, below in {**names, "path": len(self._paths)}.items()
        }
        self._goals: dict[GoalKind, Goals] = {}
        self._recent: OrderedDict[int, Product] = OrderedDict()
        self._searched: OrderedDict[tuple[str, int], list[int]] = OrderedDict()
        self._engine = Search(store)

    @classmethod
    def open(cls, folder: str | Path, *, verify: bool = False) -> Catalog:
        """Open an index folder; a process has one instance per folder.

        Args:
            folder: What `eto-gym data build webshop` wrote.
            verify: Check the SHA-256 of every file, which reads all of them.

        Raises:
            DataError: The folder is missing, unfinished, truncated, or of another version.
        """
        path = Path(folder).resolve()
        with cls._lock:
            try:
                key = (str(path), (path / MANIFEST).stat().st_mtime_ns)
            except OSError:
                key = (str(path), 0)  # `Store.open` says what is wrong
            catalog = cls._opened.get(key)
            if catalog is None or verify:
                store = Store.open(path, verify=verify)
                catalog = catalog or cls(store, name=path.name, folder=path)
                cls._opened[key] = catalog
        return catalog

    @classmethod
    def from_records(
        cls,
        products: Iterable[Mapping[str, Any]],
        *,
        attributes: Mapping[str, Any] | None = None,
        human: Mapping[str, Any] | None = None,
        seed: int = 0,
        tagger: str | TaggerFunction = RULES,
        name: str = "memory",
    ) -> Catalog:
        """Build a catalog in memory from records in the form of the official files.

        Args:
            products: Product records.
            attributes: asin -> entry of the attribute file.
            human: asin -> list of human goals.
            seed: Seed of prices and price limits.
            tagger: See `eto_gym.envs.webshop.catalog.nouns.make_tagger`; "given" takes the
                nouns of a record's own field `nouns`.
            name: What the card calls the catalog.
        """
        from eto_gym.envs.webshop.catalog.build import assemble
        from eto_gym.envs.webshop.store import MemoryWriter

        writer = MemoryWriter()
        manifest = assemble(
            writer, products, attributes=attributes or {}, human=human or {}, seed=seed,
            tagger=tagger,
        )  # fmt: skip
        return cls(writer.finish(manifest), name=name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Catalog:
        """Return the catalog itself: it cannot change, and may be large."""
        return self

    def __reduce__(self) -> Any:
        """Pickle a folder's catalog as its path, so that worker processes map the same files."""
        if self.folder is not None:
            return (Catalog.open, (str(self.folder),))
        return (_from_store, (self._store, self.name))

    def __len__(self) -> int:
        """Count the products."""
        return len(self._asins)

    def find(self, asin: str) -> int | None:
        """Return the index of the product with this id, upper and lower case told apart."""
        wanted = asin.encode("utf-8", "surrogatepass")
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self._asins.raw(self._by_asin[middle]) < wanted:
                low = middle + 1
            else:
                high = middle
        if low == len(self) or self._asins.raw(self._by_asin[low]) != wanted:
            return None
        return int(self._by_asin[low])

    def asin(self, index: int) -> str:
        """Return a product's id."""
        return self._asins[index]

    def title(self, index: int) -> str:
        """Return a product's name."""
        return self._titles[index]

    def price_text(self, index: int) -> str:
        """Return a product's price as the pages show it."""
        return self._prices_shown[index]

    def product(self, ref: int | str) -> Product:
        """Return the product at an index, or with an asin.

        Raises:
            UnknownNameError: There is no such product.
        """
        index = self.find(ref) if isinstance(ref, str) else ref
        if index is None or not 0 <= index < len(self):
            raise UnknownNameError(
                f"expected an asin or an index in 0..{len(self) - 1} of the catalog "
                f"{self.name!r}, got {ref!r}"
            )
        product = self._recent.get(index)
        if product is None:
            product = self._recent[index] = self._decode(index)
            if len(self._recent) > _RECENT:
                self._recent.popitem(last=False)
        return product

    def _decode(self, index: int) -> Product:
        try:
            description, bullets, options, attributes, nouns, image, option_images = json.loads(
                self._details[index]
            )
        except (ValueError, RecursionError, TypeError) as err:
            raise damaged(f"details of product {index} cannot be read: {err}") from err
        return Product(
            index=index,
            asin=self._asins[index],
            title=self._titles[index],
            description=description,
            bullets=tuple(bullets),
            price_text=self._prices_shown[index],
            price=float(self._prices[index]),
            options={name: tuple(values) for name, values in options.items()},
            attributes=tuple(attributes),
            category=self._facets["category"].names[self._codes["category"][index]],
            query=self._facets["query"].names[self._codes["query"][index]],
            product_category=self._paths[self._codes["path"][index]],
            nouns=tuple(nouns),
            image=image,
            option_images=option_images,
        )

    def search(self, query: str, k: int = 50) -> list[int]:
        """Return the indices of the `k` best products for a query, best first.

        Of a longer query, the first `MAX_QUERY` characters count.
        """
        query = query[:MAX_QUERY]
        found = self._searched.get((query, k))
        if found is None:
            found = self._searched[query, k] = self._engine.top_products(query, k)
            if len(self._searched) > _RECENT:
                self._searched.popitem(last=False)
        return found.copy()

    def with_category(self, category: str) -> list[int]:
        """Return the products of a department, in catalog order."""
        return self._facets["category"].members(category)

    def with_query(self, query: str) -> list[int]:
        """Return the products that were collected with this query, in catalog order."""
        return self._facets["query"].members(query)

    def with_attribute(self, attribute: str) -> list[int]:
        """Return the products that the attribute file gives this attribute, in catalog order."""
        return self._facets["attribute"].members(attribute)

    def goals(self, kind: GoalKind) -> Goals:
        """Return the goals of one kind; there may be none.

        Raises:
            UnknownNameError: There is no such kind.
        """
        check_choice("goal kind", kind, GOAL_KINDS)
        if kind not in self._goals:
            self._goals[kind] = Goals(self.product, len(self), self._store, kind)
        return self._goals[kind]

    def card(self) -> dict[str, Any]:
        """Describe the catalog: what rewards and observations depend on, JSON-serialisable."""
        manifest = {k: v for k, v in self._store.manifest.items() if k not in _UNCARDED}
        return {"name": self.name, **manifest}


class _Facet:
    """A property with few values, and the products that have each value."""

    def __init__(self, store: Store, name: str, count: int) -> None:
        self.names = store.texts(f"{name}_names")
        self._products = store.indices(f"{name}_products", below=count)
        self._starts = store.starts(f"{name}_starts", size=len(self.names), end=len(self._products))

    def members(self, value: str) -> list[int]:
        at = self.names.find(value)
        if at is None:
            return []
        return self._products[self._starts[at] : self._starts[at + 1]].tolist()  # type: ignore[no-any-return]


def _from_store(store: Store, name: str) -> Catalog:
    return Catalog(store, name=name)
