"""The tasks of ScienceWorld: names, variations, both ways to split them, and step limits.

Task names are those of scienceworld 1.2.3. A task id is "<task name>/<variation>".
"""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Literal

from eto_gym.errors import DataError, check_choice, unknown_name
from eto_gym.tasks import Task, TaskSet

SplitScheme = Literal["official", "eto"]
SPLIT_SCHEMES: tuple[SplitScheme, ...] = ("official", "eto")
SPLITS = ("train", "dev", "test")

VARIATIONS = {
    "boil": 30,
    "change-the-state-of-matter-of": 30,
    "chemistry-mix": 32,
    "chemistry-mix-paint-secondary-color": 36,
    "chemistry-mix-paint-tertiary-color": 36,
    "find-animal": 300,
    "find-living-thing": 300,
    "find-non-living-thing": 300,
    "find-plant": 300,
    "freeze": 30,
    "grow-fruit": 126,
    "grow-plant": 126,
    "identify-life-stages-1": 14,
    "identify-life-stages-2": 10,
    "inclined-plane-determine-angle": 168,
    "inclined-plane-friction-named-surfaces": 1386,
    "inclined-plane-friction-unnamed-surfaces": 162,
    "lifespan-longest-lived": 125,
    "lifespan-longest-lived-then-shortest-lived": 125,
    "lifespan-shortest-lived": 125,
    "measure-melting-point-known-substance": 436,
    "measure-melting-point-unknown-substance": 300,
    "melt": 30,
    "mendelian-genetics-known-plant": 120,
    "mendelian-genetics-unknown-plant": 480,
    "power-component": 20,
    "power-component-renewable-vs-nonrenewable-energy": 20,
    "test-conductivity": 900,
    "test-conductivity-of-unknown-substances": 600,
    "use-thermometer": 540,
}
"""Task name -> number of its variations, which are numbered from 0."""

OFFICIAL_STEP_LIMIT = 100
"""Step limit of the official split scheme, for every task: the stock API's own default."""

ETO_STEP_LIMITS = {
    "boil": 100,
    "change-the-state-of-matter-of": 80,
    "chemistry-mix": 60,
    "chemistry-mix-paint-secondary-color": 15,
    "chemistry-mix-paint-tertiary-color": 30,
    "find-animal": 15,
    "find-living-thing": 15,
    "find-non-living-thing": 15,
    "find-plant": 15,
    "freeze": 80,
    "grow-fruit": 60,
    "grow-plant": 30,
    "identify-life-stages-1": 30,
    "identify-life-stages-2": 30,
    "lifespan-longest-lived": 10,
    "lifespan-longest-lived-then-shortest-lived": 12,
    "lifespan-shortest-lived": 10,
    "measure-melting-point-known-substance": 120,
    "melt": 80,
    "power-component": 20,
    "power-component-renewable-vs-nonrenewable-energy": 30,
    "test-conductivity": 30,
    "test-conductivity-of-unknown-substances": 30,
    "use-thermometer": 30,
}
"""Step limits of the 24 tasks of the ETO paper. The other six tasks are in none of its splits; when
one is asked for by name, `OFFICIAL_STEP_LIMIT` applies."""


def task_names() -> tuple[str, ...]:
    """Return the 30 task names, sorted."""
    return tuple(VARIATIONS)


def step_limit(name: str, scheme: SplitScheme) -> int:
    """Return the step limit of a task under a split scheme."""
    if scheme == "eto":
        return ETO_STEP_LIMITS.get(name, OFFICIAL_STEP_LIMIT)
    return OFFICIAL_STEP_LIMIT


@functools.cache
def load_tasks(split: str, scheme: SplitScheme = "official") -> TaskSet:
    """Return the tasks of a split.

    Args:
        split: "train", "dev" or "test".
        scheme: "official" is the engine's own division of all 30 tasks (3,592 / 1,796 / 1,819),
            sorted by name and variation. "eto" are the lists of the ETO paper in their order: 24
            tasks, 1,483 / 194 / 211; the paper calls dev "seen" and test "unseen". Of its training
            tasks, 357 lie outside the official training split, and 54 of those are in its dev
            list as well: score on "test", or on the official splits, to be safe.

    Raises:
        UnknownNameError: There is no such split or scheme.
    """
    check_choice("split_scheme", scheme, SPLIT_SCHEMES)
    check_choice("split", split, SPLITS)
    if scheme == "eto":
        pairs = _eto_pairs()[split]
    else:
        pairs = [
            (name, variation)
            for name, count in VARIATIONS.items()
            for variation in _official_range(count, split)
        ]
    return TaskSet([Task(f"{n}/{v}", n, split) for n, v in pairs], split=split)


def find_task(task_id: str, scheme: SplitScheme) -> Task:
    """Return any task of the engine by its id, whichever split it is in.

    Its `split` is the first that holds it under `scheme`, or "none".

    Raises:
        UnknownNameError: There is no such task or variation.
    """
    name, _, variation = task_id.rpartition("/")
    if name not in VARIATIONS:
        raise unknown_name("ScienceWorld task '<name>/<variation>' with a name", name, VARIATIONS)
    if variation not in map(str, range(VARIATIONS[name])):
        raise unknown_name(f"variation of {name}", variation, map(str, range(VARIATIONS[name])))
    split = next((s for s in SPLITS if task_id in load_tasks(s, scheme).ids), "none")
    return Task(task_id, name, split)


def split_id(task_id: str) -> tuple[str, int]:
    """Return the task name and the variation of a valid task id."""
    name, _, variation = task_id.rpartition("/")
    return name, int(variation)


def _official_range(count: int, split: str) -> range:
    """Return the variations of a split: half of them, a quarter, and the rest, rounded down."""
    quarter = count // 4
    return {
        "train": range(2 * quarter),
        "dev": range(2 * quarter, 3 * quarter),
        "test": range(3 * quarter, count),
    }[split]


@functools.cache
def _eto_pairs() -> dict[str, list[tuple[str, int]]]:
    text = resources.files("eto_gym.envs.scienceworld").joinpath("eto_splits.json").read_text()
    try:
        data = json.loads(text)
        names = data["tasks"]
        return {split: [(names[task], int(v)) for task, v in data[split]] for split in SPLITS}
    except (ValueError, RecursionError, KeyError, TypeError, IndexError) as err:
        raise DataError(f"the list of the ETO splits is damaged: {err}") from err
