"""What the environments of a process share: one catalog, its pages, and its task sets."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from eto_gym.envs.webshop.catalog.catalog import Catalog
from eto_gym.envs.webshop.catalog.goals import GOAL_KINDS, GoalKind
from eto_gym.envs.webshop.pages import Pages
from eto_gym.envs.webshop.tasks import SPLITS, GoalTasks, split_indices
from eto_gym.errors import EtoGymError, check_choice

BUILTIN = "builtin"

_open_shops: WeakValueDictionary[str, Shop] = WeakValueDictionary()
_opening = Lock()


class Shop:
    """One read-only catalog with what is derived from it, for any number of environments."""

    def __init__(self, catalog: Catalog, *, opened: str | Catalog | None = None) -> None:
        """Wrap a catalog; `open_shop` is what environments call.

        Args:
            catalog: The catalog.
            opened: What `open_shop` was given; None means the catalog itself.
        """
        self.catalog = catalog
        self._opened = catalog if opened is None else opened
        self._pages = {shown: Pages(catalog, show_attributes=shown) for shown in (False, True)}
        self._tasks: dict[tuple[GoalKind, str], GoalTasks] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Shop:
        """Return the shop itself, which copies of an environment share."""
        return self

    def __reduce__(self) -> Any:
        """Pickle what the shop was opened with; a process that reads it has its own shop."""
        return (open_shop, (self._opened,))

    def pages(self, *, show_attributes: bool) -> Pages:
        """Return the page builder."""
        return self._pages[show_attributes]

    def tasks(self, kind: GoalKind, split: str) -> GoalTasks:
        """Return the task set of a split.

        Raises:
            UnknownNameError: There is no such kind of goals, or split.
            EtoGymError: The catalog holds no goals of this kind.
        """
        check_choice("goals", kind, GOAL_KINDS)
        check_choice("split", split, SPLITS)
        key = (kind, split)
        if key not in self._tasks:
            goals = self.catalog.goals(kind)
            if len(goals) == 0:
                raise EtoGymError(f"the catalog {self.catalog.name!r} holds no {kind} goals")
            indices = split_indices(kind, np.asarray(goals.products), split)
            self._tasks[key] = GoalTasks(goals, kind, indices, split=split)
        return self._tasks[key]


def open_shop(catalog: str | Path | Catalog) -> Shop:
    """Return the process's shop for a catalog: "builtin", an index folder, or a catalog object.

    A shop lives as long as an environment uses it; the built-in one is kept.
    """
    if catalog == BUILTIN:
        return _builtin_shop()
    if isinstance(catalog, Catalog):
        key = f"object {id(catalog)}"  # the shop keeps the object alive, so ids are not reused
    else:
        key = f"folder {Path(catalog).resolve()}"
    with _opening:
        shop = _open_shops.get(key)
        if shop is None:
            opened = catalog if isinstance(catalog, Catalog) else Catalog.open(Path(catalog))
            shop = _open_shops[key] = Shop(opened)
        return shop


@cache
def _builtin_shop() -> Shop:
    from eto_gym.envs.webshop.builtin import builtin_catalog

    return Shop(builtin_catalog(), opened=BUILTIN)
