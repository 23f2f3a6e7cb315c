"""A product, as the shop shows and scores it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


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
