"""The import graph: no circle, no arrow against the flow, rooms of a size one can overlook."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path

import pytest

from eto_gym.benchmarks.import_graph import (
    ROOT,
    circles,
    drawn_into,
    import_graph,
    modules,
    picture,
    reached,
    rooms,
    way,
)

graph = functools.cache(import_graph)
MOST = 22
"""Modules in one folder, the package's own file not counted."""


def test_there_is_no_circle() -> None:
    assert not [" -> ".join(circle) for circle in circles(graph())]


def test_there_is_no_circle_of_rooms() -> None:
    assert not [" -> ".join(circle) for circle in circles(rooms(graph(), modules()))]


@pytest.mark.parametrize(
    ("start", "forbidden"),
    [
        ("eto_gym", ("eto_gym.agents", "eto_gym.trainers", "eto_gym.benchmarks", "eto_gym.cli")),
        ("eto_gym.agents", ("eto_gym.trainers", "eto_gym.benchmarks", "eto_gym.cli")),
        ("eto_gym.trainers", ("eto_gym.benchmarks", "eto_gym.cli")),
        ("eto_gym.cli", ("eto_gym.benchmarks",)),
    ],
)
def test_no_way_leads_against_the_flow(start: str, forbidden: tuple[str, ...]) -> None:
    others = ("eto_gym.agents", "eto_gym.trainers", "eto_gym.benchmarks", "eto_gym.cli")
    own = [
        name
        for name in graph()
        if _within(name, start) and not (start == "eto_gym" and _within(name, *others))
    ]
    assert len(own) > 10
    for name in own:
        for goal in reached(graph(), name):
            assert not _within(goal, *forbidden), " -> ".join(way(graph(), name, goal))


def _within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def test_the_settings_need_nothing_heavy() -> None:
    heavy = ("eto_gym.trainers.model", "eto_gym.trainers.run", "eto_gym.trainers.methods")
    for name in graph():
        if _within(name, "eto_gym.trainers.settings"):
            assert not [goal for goal in reached(graph(), name) if _within(goal, *heavy)]


def test_no_folder_holds_more_than_one_can_overlook() -> None:
    files = [*modules().values(), *(ROOT / "tests").rglob("*.py")]
    sizes = Counter(path.parent for path in files if path.name != "__init__.py")
    assert {str(folder): size for folder, size in sizes.items() if size > MOST} == {}


def test_the_picture_in_contributing_is_that_of_the_code() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert text == drawn_into(text, picture()), (
        "run: python -m eto_gym.benchmarks.import_graph --write"
    )


def test_every_kind_of_import_counts(tmp_path: Path) -> None:
    sources = {
        "eto_gym/__init__.py": "from eto_gym import a",
        "eto_gym/a.py": "def f():\n    from eto_gym.b import x",
        "eto_gym/b.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import c",
        "eto_gym/c.py": "import eto_gym.d",
        "eto_gym/d.py": "import os\nfrom eto_gym.trainers import T",
        "trainers/__init__.py": "from eto_gym import a",
    }
    for name, text in sources.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n", encoding="utf-8")
    (tmp_path / "eto_gym" / "trainers").symlink_to("../trainers", target_is_directory=True)
    small = import_graph(tmp_path)
    assert small == {
        "eto_gym": {"eto_gym.a"},
        "eto_gym.a": {"eto_gym.b"},
        "eto_gym.b": {"eto_gym.c"},
        "eto_gym.c": {"eto_gym.d"},
        "eto_gym.d": {"eto_gym.trainers"},
        "eto_gym.trainers": {"eto_gym.a"},
    }
    (circle,) = circles(small)
    assert circle[0] == circle[-1]
    assert set(circle) == small.keys() - {"eto_gym"}
    assert way(small, "eto_gym", "eto_gym.b") == ["eto_gym", "eto_gym.a", "eto_gym.b"]
    assert way(small, "eto_gym.a", "eto_gym") == []
