"""Tasks and task sets: what an episode is about, and the ordered collection of a split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from eto_gym.errors import UnknownNameError, check_choice, unknown_name


@dataclass(frozen=True, slots=True)
class Task:
    """One task of a benchmark.

    Attributes:
        id: Stable name, unique in the benchmark's split; the same on every machine.
        type: The benchmark's own category ("pick_and_place_simple", "boil", ...).
        split: The split that it was taken from.
    """

    id: str
    type: str
    split: str


class TaskSet(Sequence[Task]):
    """An immutable, ordered set of tasks.

    Order is stable: index `i` names the same task on every machine. `filter`, `shuffle` and `shard`
    return new sets and share the tasks.

    Example:
        >>> tasks = TaskSet([Task(f"t{i}", "toy", "train") for i in range(5)], split="train")
        >>> [task.id for task in tasks.shard(1, 2)]
        ['t1', 't3']
        >>> tasks.get("t4").id, tasks.get(0).id
        ('t4', 't0')
    """

    def __init__(self, tasks: Sequence[Task], *, split: str) -> None:
        """Create the set.

        Args:
            tasks: The tasks in their order; ids must be unique.
            split: Name of the split, as the user asked for it.

        Raises:
            ValueError: An id occurs more than once.
        """
        self._tasks = tuple(tasks)
        self._split = split
        self._index = {task.id: i for i, task in enumerate(self._tasks)}
        if len(self._index) != len(self._tasks):
            seen: set[str] = set()
            twice = next(t.id for t in self._tasks if t.id in seen or seen.add(t.id))  # type: ignore[func-returns-value]
            raise ValueError(f"task id {twice!r} occurs more than once in split {split!r}")

    def __deepcopy__(self, memo: dict[int, object]) -> TaskSet:
        """Return the set itself: it cannot change, so copies of an environment share it."""
        return self

    def __reduce__(self) -> Any:
        """Pickle a set as its columns, which takes far less time and room than its tasks."""
        if type(self) is not TaskSet:
            return super().__reduce__()
        columns = [(task.id, task.type, task.split) for task in self._tasks]
        return (_of_columns, (self._split, *(map(tuple, zip(*columns, strict=True)))))

    @property
    def split(self) -> str:
        """Name of the split."""
        return self._split

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids, in order."""
        return tuple(self._index)

    def __len__(self) -> int:
        """Count the tasks."""
        return len(self._tasks)

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> TaskSet: ...
    def __getitem__(self, index: int | slice) -> Task | TaskSet:
        """Return the task at `index`, or the set of a slice."""
        if isinstance(index, slice):
            return TaskSet(self._tasks[index], split=self._split)
        return self._tasks[index]

    def __iter__(self) -> Iterator[Task]:
        """Iterate in order."""
        return iter(self._tasks)

    def __contains__(self, item: object) -> bool:
        """Tell whether a task belongs to the set."""
        return isinstance(item, Task) and item.id in self._index

    def has(self, task_id: str) -> bool:
        """Tell whether a task with this id belongs to the set."""
        return task_id in self._index

    def __repr__(self) -> str:
        """Show split and size."""
        return f"TaskSet(split={self._split!r}, tasks={len(self)})"

    def get(self, ref: str | int) -> Task:
        """Return the task with this id or at this index.

        Raises:
            UnknownNameError: No such id (the closest one is named), or the index is out of range.
        """
        if isinstance(ref, bool) or not isinstance(ref, str | int | np.integer):
            raise UnknownNameError(
                f"expected a task id (str) or an index (int), got {ref!r} of type "
                f"{type(ref).__name__}"
            )
        if isinstance(ref, str):
            if ref not in self._index:
                raise unknown_name(f"task of split {self._split!r}", ref, self._index)
            return self._tasks[self._index[ref]]
        if not 0 <= ref < len(self):
            raise UnknownNameError(
                f"expected a task index in 0..{len(self) - 1} for split {self._split!r}, got {ref}"
            )
        return self._tasks[ref]

    def filter(
        self, predicate: Callable[[Task], bool] | None = None, *, type: str | None = None
    ) -> TaskSet:
        """Keep the tasks of one `type`, or those for which `predicate` holds, or both.

        Raises:
            UnknownNameError: No task is of this type.
        """
        if type is not None and all(task.type != type for task in self._tasks):
            raise unknown_name("task type", type, sorted({task.type for task in self._tasks}))
        kept = [
            task
            for task in self._tasks
            if (type is None or task.type == type) and (predicate is None or predicate(task))
        ]
        return TaskSet(kept, split=self._split)

    def shuffle(self, seed: int) -> TaskSet:
        """Return the tasks in a random order that depends on `seed` alone."""
        order = np.random.default_rng(seed).permutation(len(self))
        return TaskSet([self._tasks[i] for i in order], split=self._split)

    def shard(self, index: int, count: int) -> TaskSet:
        """Return every `count`-th task from `index` on; the shards 0..count-1 partition the set.

        Raises:
            ValueError: `index` is not in 0..count-1.
        """
        if not 0 <= index < count:
            raise ValueError(f"expected 0 <= index < count, got index={index}, count={count}")
        return self[index::count]


def _of_columns(split: str, *columns: Sequence[str]) -> TaskSet:
    return TaskSet([Task(*row) for row in zip(*columns, strict=True)], split=split)


def choose_types(tasks: TaskSet, names: Sequence[str] | None) -> TaskSet:
    """Return the tasks with these names, in the order of the split; None: all.

    Raises:
        UnknownNameError: There is no such name, or the split has no task of it.
    """
    if names is None:
        return tasks
    known = sorted({task.type for task in tasks})
    for name in names:
        check_choice("task type", name, known)
    return tasks.filter(lambda task: task.type in names)
