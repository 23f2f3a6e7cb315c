"""Which goals make a split, and the lazy task set over them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from importlib import resources
from typing import overload

import numpy as np
import numpy.typing as npt

from eto_gym.envs.webshop.catalog.goals import GoalKind, Goals
from eto_gym.errors import UnknownNameError, unknown_name
from eto_gym.tasks import Task, TaskSet

SPLITS = ("train", "test", "all")

PAPER_GOALS = range(12_081, 12_088)
"""Number of human goals of the full official catalog.

The official file holds 12,087 instructions, less those without attributes; the paper's lists reach
index 12,080.
"""

HOLDOUT = 10
"""Outside the paper's catalog, every tenth product is a test product."""

Indices = npt.NDArray[np.int64]


class GoalTasks(TaskSet):
    """The goals of a split as tasks, made one by one when asked for.

    A catalog may hold millions of synthetic goals, so neither tasks nor ids are kept. An int given
    to `get` is the goal's index in the shuffled goal list, as in the original, and not a position
    in the split; `tasks[i]` is the position.
    """

    def __init__(self, goals: Goals, kind: GoalKind, indices: Indices, *, split: str) -> None:
        """Create the set.

        Args:
            goals: The catalog's shuffled goals of this kind.
            kind: Name of the goals; the first part of the task ids.
            indices: Goal indices of the split, in its order.
            split: Name of the split.
        """
        super().__init__((), split=split)
        self._goals = goals
        self._kind = kind
        self._indices = indices
        self._sorted = np.sort(indices)
        self._summed: npt.NDArray[np.float64] | None = None

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids, in order; they are made on every call."""
        return tuple(f"{self._kind}-{index}" for index in self._indices)

    @property
    def indices(self) -> Indices:
        """The goal indices, in order."""
        return self._indices

    def __len__(self) -> int:
        """Count the tasks."""
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> TaskSet: ...
    def __getitem__(self, index: int | slice) -> Task | TaskSet:
        """Return the task at a position of the split, or the set of a slice."""
        if isinstance(index, slice):
            return self._of(self._indices[index])
        return self._task(int(self._indices[index]))

    def __iter__(self) -> Iterator[Task]:
        """Iterate in order."""
        return (self._task(int(index)) for index in self._indices)

    def __contains__(self, item: object) -> bool:
        """Tell whether a task, or a task id, belongs to the set."""
        if isinstance(item, Task):
            return item.split == self.split and self.__contains__(item.id)
        return isinstance(item, str) and self.has(item)

    def has(self, task_id: str) -> bool:
        """Tell whether a task with this id belongs to the set."""
        index = goal_index(task_id, self._kind)
        return index is not None and self._has(index)

    def get(self, ref: str | int) -> Task:
        """Return the task with this id or with this goal index.

        Raises:
            UnknownNameError: There is no such goal, or it belongs to another split.
        """
        if isinstance(ref, bool) or not isinstance(ref, str | int | np.integer):
            return super().get(ref)  # words the error
        index = goal_index(ref, self._kind) if isinstance(ref, str) else int(ref)
        if index is not None and self._has(index):
            return self._task(index)
        if index is None or not 0 <= index < len(self._goals):
            if isinstance(ref, str):
                raise unknown_name(f"task of split {self.split!r}", ref, self.ids)
            raise UnknownNameError(
                f"expected the number of a goal in 0..{len(self._goals) - 1}, got {ref}"
            )
        raise UnknownNameError(
            f"expected a goal of split {self.split!r}, got goal {index}, which is not in it. "
            'Make the environment with split="all" to play every goal.'
        )

    def filter(
        self, predicate: Callable[[Task], bool] | None = None, *, type: str | None = None
    ) -> TaskSet:
        """Keep the tasks of one `type`, or those for which `predicate` holds, or both.

        Raises:
            UnknownNameError: No task is of this type.
        """
        tasks = list(self)
        if type is not None and all(task.type != type for task in tasks):
            raise unknown_name("task type", type, sorted({task.type for task in tasks}))
        kept = [
            (type is None or task.type == type) and (predicate is None or predicate(task))
            for task in tasks
        ]
        return self._of(self._indices[np.array(kept, bool)])

    def shuffle(self, seed: int) -> TaskSet:
        """Return the tasks in a random order that depends on `seed` alone."""
        return self._of(self._indices[np.random.default_rng(seed).permutation(len(self))])

    def draw(self, np_random: np.random.Generator) -> Task:
        """Draw a task by the weights of the goals."""
        if self._summed is None:
            weights = np.diff(self._goals.cumulative_weights, prepend=0.0)
            self._summed = np.cumsum(weights[self._indices])
        target = np_random.random() * self._summed[-1]
        place = int(np.searchsorted(self._summed, target, side="right"))
        return self[min(place, len(self) - 1)]

    def _of(self, indices: Indices) -> GoalTasks:
        return GoalTasks(self._goals, self._kind, indices, split=self.split)

    def _has(self, index: int) -> bool:
        place = int(np.searchsorted(self._sorted, index))
        return place < len(self._sorted) and int(self._sorted[place]) == index

    def _task(self, index: int) -> Task:
        return Task(f"{self._kind}-{index}", self._goals[index].category, self.split)


def goal_index(task_id: str, kind: GoalKind) -> int | None:
    """Return the goal index in a task id; None if the id is not of this kind of goals."""
    name, dash, digits = task_id.partition("-")
    if name != kind or not dash or not (digits.isascii() and digits.isdecimal()):
        return None
    index = int(digits) if len(digits) < 19 else -1
    return index if str(index) == digits else None


def split_rule(kind: GoalKind, count: int) -> str:
    """Return how goals are split: "paper" (its lists of goal indices) or "product" (held out)."""
    return "paper" if kind == "human" and count in PAPER_GOALS else "product"


def split_indices(kind: GoalKind, products: Indices, split: str) -> Indices:
    """Return the goal indices of a split.

    Args:
        kind: Kind of the goals.
        products: Index of every goal's target product, in the order of the goals.
        split: One of `SPLITS`. The paper's lists apply to the full official catalog with human
            goals. In any other catalog the goals of every tenth product are the test goals, so that
            no product is a target in both splits.
    """
    if split == "all":
        return np.arange(len(products), dtype=np.int64)
    if split_rule(kind, len(products)) == "paper":
        return paper_lists()[split]
    is_test = products % HOLDOUT == HOLDOUT - 1
    return np.flatnonzero(is_test == (split == "test"))


@cache
def paper_lists() -> dict[str, Indices]:
    """Return the paper's goal indices: 1,823 to train on and 200 to test on.

    Source: train_indices.json and test_indices.json of the ETO data. Its training list holds 1,824
    entries, one of them twice, and 21 goals stand in both lists; they are kept here as they are, so
    that results compare with the paper's. The file holds the gaps between the sorted training
    indices, and the test indices in their order.
    """
    text = resources.files("eto_gym.envs.webshop").joinpath("paper_split.json").read_text("utf-8")
    data = json.loads(text)
    return {
        "train": np.cumsum(np.array(data["train_gaps"], np.int64)),
        "test": np.array(data["test"], np.int64),
    }
