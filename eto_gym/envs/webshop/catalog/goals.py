"""The goals of a catalog: what an episode asks for, read when it is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np

from eto_gym.envs.webshop.catalog.product import Product
from eto_gym.envs.webshop.store import Store, damaged
from eto_gym.errors import EtoGymError

GoalKind = Literal["human", "synthetic"]
GOAL_KINDS: tuple[GoalKind, ...] = ("human", "synthetic")


NO_LIMIT = 1_000_000.0
"""Price limit of a goal without one."""

MAX_SYNTHETIC = 50_000_000
"""Synthetic goals that a catalog may have; a few products with many options make most of them."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What an episode asks for.

    Attributes:
        index: Position in the shuffled goal list: the task id.
        product: Index of the target product; `asin`, `name` (its title), `category`, `query`,
            `product_category` and `nouns` are that product's.
        asin: See `product`.
        name: See `product`.
        category: See `product`.
        query: See `product`.
        product_category: See `product`.
        nouns: See `product`.
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
    """The shuffled goals of one kind; `goals[i]` is built when it is asked for.

    Attributes:
        kind: Kind of the goals.
        products: Index of each goal's target product.
        cumulative_weights: Running sum of the goals' weights.
    """

    def __init__(
        self, product: Callable[[int], Product], products: int, store: Store, kind: GoalKind
    ) -> None:
        """Open the goals of one kind.

        Args:
            product: Returns the product at an index.
            products: How many products there are.
            store: Holds the goals.
            kind: Their kind.
        """
        self.kind: GoalKind = kind
        self._product = product
        self.products = store.indices(f"{kind}_goal_products", below=products)
        count = len(self.products)
        self._limits = store.floats(f"{kind}_goal_limits", size=count)
        self.cumulative_weights = store.floats(f"{kind}_goal_cumulative_weights", size=count)
        self._parts = store.texts(f"{kind}_goal_parts", size=count if kind == "human" else None)
        if kind == "synthetic":
            parts = len(self._parts)
            self._combinations = store.indices(
                "synthetic_goal_combinations", below=MAX_SYNTHETIC, size=count
            )
            self._part_of = store.indices("synthetic_goal_part", below=parts, size=count)
            self._weights = store.floats("synthetic_part_weights", size=parts)

    def __deepcopy__(self, memo: dict[int, Any]) -> Goals:
        """Return the goals themselves: they cannot change."""
        return self

    def __len__(self) -> int:
        """Count the goals."""
        return len(self.products)

    @overload
    def __getitem__(self, index: int) -> Goal: ...
    @overload
    def __getitem__(self, index: slice) -> list[Goal]: ...
    def __getitem__(self, index: int | slice) -> Goal | list[Goal]:
        """Return a goal, or the list of a slice.

        Raises:
            IndexError: There is no such goal.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(f"expected a goal index in 0..{len(self) - 1}, got {index}")
        product = self._product(int(self.products[index]))
        limit = float(self._limits[index])
        options: tuple[str, ...] | dict[str, str]
        if self.kind == "human":
            text, attributes, values = self._read_part(index, 3)
            options = tuple(values)
            weight = 1.0
        else:
            part = int(self._part_of[index])
            text, attributes = self._read_part(part, 2)
            weight = float(self._weights[part])
            options = _combination(product.options, int(self._combinations[index]))
            if options:
                text += " with " + ", and ".join(f"{k}: {v}" for k, v in options.items())
        return Goal(
            index=index,
            product=product.index,
            asin=product.asin,
            name=product.title,
            category=product.category,
            query=product.query,
            product_category=product.product_category,
            nouns=product.nouns,
            instruction=text + limit_text(limit),
            attributes=tuple(attributes),
            options=options,
            price_upper=limit,
            weight=weight,
        )

    def _read_part(self, index: int, size: int) -> list[Any]:
        try:
            part = json.loads(self._parts[index])
        except (ValueError, RecursionError) as err:
            raise damaged(f"{self._parts.name} {index} cannot be read: {err}") from err
        if not isinstance(part, list) or len(part) != size:
            raise damaged(f"{self._parts.name} {index} has not {size} parts")
        return part

    def draw(self, generator: np.random.Generator) -> int:
        """Draw the index of a goal with the probability that its weight gives it.

        Raises:
            EtoGymError: There is no goal.
        """
        if not len(self):
            raise EtoGymError(f"the catalog has no {self.kind} goal")
        point = generator.random() * float(self.cumulative_weights[-1])
        return min(
            int(np.searchsorted(self.cumulative_weights, point, side="right")), len(self) - 1
        )


def limit_text(limit: float) -> str:
    """Return how an instruction names a price limit."""
    return "" if limit >= NO_LIMIT else f", and price lower than {limit:.2f} dollars"


def _combination(options: Mapping[str, Sequence[str]], number: int) -> dict[str, str]:
    """Return the options of a synthetic goal: names in order, the last one changing fastest."""
    chosen = {}
    for name in sorted(options, reverse=True):
        number, value = divmod(number, len(options[name]))
        chosen[name] = options[name][value]
    return dict(sorted(chosen.items()))
