"""The read-only catalog: products, goals and search, shared by every environment of a process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

GoalKind = Literal["human", "synthetic"]


@dataclass(frozen=True, slots=True)
class Product:
    """One product, as the shop shows and scores it.

    Attributes:
        index: Position in the catalog (the order of the product file).
        asin: Its id, as written in the file.
        title: Name.
        description: Long text; empty where the file has none.
        bullets: The feature lines.
        price_text: What the pages show: "$4.26", "$121.04 to $60.52".
        price: The price that the reward compares; drawn from the range when the catalog was built.
        options: Option name -> its values, both as clicked (lower case), in the file's order.
        attributes: Attributes of the attribute file; ("DUMMY_ATTR",) where that file has none.
        category: Department ("garden").
        query: The query that the product was collected with, lower case.
        product_category: Category path ("A › B › C").
        nouns: Lower-cased nouns of the title in order, repeats kept.
        image: URL of the main image, or empty.
        option_images: Option value -> URL, for the values that have one.
    """

    index: int
    asin: str
    title: str
    description: str
    bullets: tuple[str, ...]
    price_text: str
    price: float
    options: Mapping[str, tuple[str, ...]]
    attributes: tuple[str, ...]
    category: str
    query: str
    product_category: str
    nouns: tuple[str, ...]
    image: str
    option_images: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Goal:
    """What an episode asks for.

    Attributes:
        index: Position in the shuffled goal list: the task id.
        product: Index of the target product; `asin`, `name` (its title), `category`, `query`,
            `product_category` and `nouns` are that product's.
        instruction: What the shopper is told, with the price limit where there is one.
        attributes: Attributes asked for; never empty.
        options: Asked-for option values (human goals), or option name -> value (synthetic goals).
        price_upper: Price limit in dollars; 1,000,000 where the instruction names none.
        weight: Weight of the goal when one is drawn at random.
    """

    index: int
    product: int
    asin: str
    name: str
    category: str
    query: str
    product_category: str
    nouns: tuple[str, ...]
    instruction: str
    attributes: tuple[str, ...]
    options: tuple[str, ...] | Mapping[str, str]
    price_upper: float
    weight: float


class Goals(Sequence[Goal]):
    """The shuffled goals of one kind.

    `goals[i]` builds a `Goal`; `len(goals)`; `goals.draw(np_random) -> int` draws an index by
    weight.
    """


class Catalog:
    """Products, goals and search of one shop; immutable.

    Catalog.open(folder) -> Catalog                one instance per process and folder
    Catalog.from_records(products, attributes=None, human=None, seed=0, tagger="rules",
                         name="memory")            the same, in memory (file-format dicts)
    len(catalog)
    catalog.product(index_or_asin) -> Product      UnknownNameError if there is none
    catalog.find(asin) -> int | None               index of an asin
    catalog.asin(i), catalog.title(i), catalog.price_text(i) -> str      cheap single columns
    catalog.search(query, k=50) -> list[int]       Lucene's ranking, as product indices
    catalog.with_query(q) / with_category(c) / with_attribute(a) -> list[int]   in catalog order
    catalog.goals("human" | "synthetic") -> Goals  may be empty
    catalog.card() -> dict                         name, products, tagger, seed, hashes: JSON
    """
