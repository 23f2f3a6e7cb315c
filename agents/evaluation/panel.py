"""Panels: fixed, named lists of tasks, so that a score on one can be compared with any other.

A panel never changes once it is named; another choice of tasks gets another name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from eto_gym.agents.evaluation.card import digest
from eto_gym.errors import DataError, EtoGymError, unknown_name

FORMAT = 1
"""Format of a submission."""


@dataclass(frozen=True)
class PanelPart:
    """The tasks of one benchmark on a panel.

    Attributes:
        panel: Name of the panel.
        env: Id of the environment.
        env_kwargs: Arguments of `gym.make` that the panel fixes, the split among them.
        tasks: Ids of the tasks, in order.
    """

    panel: str
    env: str
    env_kwargs: dict[str, Any]
    tasks: tuple[str, ...]

    def settle(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of `gym.make`: those that the panel fixes, and what else was asked.

        Raises:
            EtoGymError: Something was asked that the panel fixes otherwise.
        """
        for name, value in self.env_kwargs.items():
            if name in asked and asked[name] != value:
                raise EtoGymError(
                    f"panel {self.panel} is played with {name}={value!r}, got {asked[name]!r}: "
                    "leave it out, or the panel"
                )
        return {**asked, **self.env_kwargs}


def panel_names() -> list[str]:
    """Return the names of the panels."""
    folder = resources.files("eto_gym.agents.evaluation").joinpath("panels")
    return sorted(p.name.removesuffix(".json") for p in folder.iterdir() if p.name[0] != ".")


def load_panel(name: str) -> dict[str, PanelPart]:
    """Return the parts of a panel by the id of their environment.

    Raises:
        UnknownNameError: There is no such panel.
        DataError: Its list was changed.
    """
    names = panel_names()
    if name not in names:
        raise unknown_name("panel", name, names)
    file = resources.files("eto_gym.agents.evaluation").joinpath("panels", f"{name}.json")
    told = json.loads(file.read_text(encoding="utf-8"))
    for part in told["benchmarks"]:
        if digest(part["tasks"]) != part["digest"]:
            raise DataError(f"panel {name}: the tasks of {part['env']} are not those it names")
    return {
        part["env"]: PanelPart(name, part["env"], part["env_kwargs"], tuple(part["tasks"]))
        for part in told["benchmarks"]
    }


def part_for(name: str, env_id: str) -> PanelPart:
    """Return the part of a panel for one environment.

    Raises:
        UnknownNameError: There is no such panel, or it has no tasks of this environment.
    """
    parts = load_panel(name)
    if env_id not in parts:
        raise unknown_name(f"environment of panel {name}", env_id, parts)
    return parts[env_id]


def submission(name: str, panel: str, reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what one hands in: the reports of `eto-gym eval` on every benchmark of a panel."""
    return {"format": FORMAT, "name": name, "panel": panel, "reports": list(reports)}
