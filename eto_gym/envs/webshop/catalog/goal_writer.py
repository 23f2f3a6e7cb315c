"""How the goals of a catalog are drawn when it is built.

Price limits come from one generator that has drawn the prices before, human and synthetic goals
each from the state that the prices left; then the goals are shuffled with a seed of their own. This
is the original's order, so the same seed gives the goals of a process that was seeded alike.
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from eto_gym.envs.webshop.catalog.goals import MAX_SYNTHETIC, NO_LIMIT
from eto_gym.envs.webshop.catalog.records import text_of, texts_of
from eto_gym.envs.webshop.store import Writer
from eto_gym.errors import DataError

SHUFFLE_SEED = 233
"""Seed of the goals' order, fixed in the original: a goal's index is its task id."""

_STEPS = [10.0 * i for i in range(1, 100)]


def draw_limit(price: float, generator: random.Random) -> float:
    """Draw the price limit of a goal whose product has this price."""
    steps = [step for step in _STEPS if step > price][:4]
    return max(generator.sample(steps, 2)) if len(steps) >= 2 else NO_LIMIT


def shuffled(count: int) -> list[int]:
    """Return the indices 0..count-1 in the order in which goals are numbered."""
    order = list(range(count))
    random.Random(SHUFFLE_SEED).shuffle(order)
    return order


class GoalWriter:
    """Collects what goals are made of while products stream by, then draws and writes them."""

    def __init__(self, writer: Writer, *, human: Mapping[str, Any], synthetic: bool) -> None:
        """Begin.

        Args:
            writer: Where the goals go.
            human: The human goal file: asin -> list of goals.
            synthetic: Whether to make synthetic goals.
        """
        self._writer = writer
        self._human = human
        self._synthetic = synthetic
        self._with_human: list[tuple[int, float, Any]] = []
        self._with_synthetic: list[tuple[int, float, int]] = []
        self._parts = writer.texts("synthetic_goal_parts")
        self._part_attributes: list[tuple[str, ...]] = []
        self._interned: dict[tuple[str, ...], tuple[str, ...]] = {}

    def add(
        self,
        product: int,
        asin: str,
        price: float,
        options: Mapping[str, Sequence[str]],
        entry: Mapping[str, Any],
    ) -> None:
        """Note the goals of the next product.

        Args:
            product: Its index.
            asin: Its id.
            price: Its drawn price.
            options: Its options.
            entry: Its entry in the attribute file; empty if it has none.
        """
        goals = self._human.get(asin)
        if isinstance(goals, list):
            self._with_human.append((product, price, goals))
        text = entry.get("instruction")
        # A million products share few attributes.
        attributes = tuple(map(sys.intern, texts_of(entry.get("instruction_attributes"))))
        if self._synthetic and text is not None and attributes:
            self._with_synthetic.append((product, price, math.prod(map(len, options.values()))))
            self._parts.append(json.dumps([text_of(text), attributes], ensure_ascii=False))
            self._part_attributes.append(self._interned.setdefault(attributes, attributes))

    def finish(self, generator: random.Random) -> dict[str, int]:
        """Draw and write all goals; return how many there are of each kind.

        Args:
            generator: The generator that drew the prices; it is left as it is.
        """
        state = generator.getstate()
        fork = random.Random()
        fork.setstate(state)
        human = self._finish_human(fork)
        fork.setstate(state)
        return {"human": human, "synthetic": self._finish_synthetic(fork)}

    def _finish_human(self, generator: random.Random) -> int:
        goals = []
        for product, price, raw in self._with_human:
            for item in raw:
                if not isinstance(item, Mapping):
                    continue
                attributes = texts_of(item.get("instruction_attributes"))
                if not attributes:
                    continue
                text = text_of(item.get("instruction")).strip(".")
                options = texts_of(item.get("instruction_options"))
                limit = draw_limit(price, generator)
                parts = json.dumps([text, attributes, options], ensure_ascii=False)
                goals.append((product, limit, parts))
        goals = [goals[i] for i in shuffled(len(goals))]
        self._writer.add("human_goal_products", np.array([g[0] for g in goals], np.int32))
        self._writer.add("human_goal_limits", np.array([g[1] for g in goals], np.float64))
        self._writer.add(
            "human_goal_cumulative_weights", np.arange(1, len(goals) + 1, dtype=np.float64)
        )
        self._writer.texts("human_goal_parts").extend(g[2] for g in goals)
        return len(goals)

    def _finish_synthetic(self, generator: random.Random) -> int:
        sizes = np.array([size for *_, size in self._with_synthetic], np.int64)
        if sizes.sum(dtype=np.float64) > MAX_SYNTHETIC:
            raise DataError(
                f"the options of the products make {sizes.sum(dtype=np.float64):.3g} synthetic "
                f"goals, more than {MAX_SYNTHETIC:,}; build without them (--no-synthetic)"
            )
        limits = np.array(
            [draw_limit(price, generator) for _, price, _ in self._with_synthetic], np.float64
        )
        products = np.array([product for product, *_ in self._with_synthetic], np.int32)
        weights = np.array(list(self._weights(sizes.tolist())), np.float64)
        part = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
        number = np.arange(len(part)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        order = np.array(shuffled(len(part)), np.int64)
        part = part[order]
        self._writer.add("synthetic_part_weights", weights)
        self._writer.add("synthetic_goal_part", part)
        self._writer.add("synthetic_goal_combinations", number[order].astype(np.int32))
        self._writer.add("synthetic_goal_products", products[part])
        self._writer.add("synthetic_goal_limits", limits[part])
        self._writer.add("synthetic_goal_cumulative_weights", np.cumsum(weights[part]))
        return len(part)

    def _weights(self, sizes: list[int]) -> Iterator[float]:
        """Yield the weight of each product's goals: rare attributes weigh more."""
        counts: Counter[str] = Counter()
        for attributes, size in zip(self._part_attributes, sizes, strict=True):
            for attribute in attributes:
                counts[attribute] += size
        for attributes, size in zip(self._part_attributes, sizes, strict=True):
            yield sum(1.0 / counts[a] for a in attributes) / len(attributes) if size else 0.0
