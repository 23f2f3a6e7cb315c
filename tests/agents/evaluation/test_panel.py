"""Panels: fixed lists of tasks, their command line, and the submissions that come of them."""

from __future__ import annotations

import json
from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from eto_gym.agents.evaluation import panel as panels
from eto_gym.agents.evaluation.card import digest
from eto_gym.agents.evaluation.comparison import compare_rows, load_rows, render
from eto_gym.agents.evaluation.panel import PanelPart, load_panel, part_for
from eto_gym.cli.main import main
from eto_gym.errors import DataError, EtoGymError, UnknownNameError
from eto_gym.lookup import tasks
from tests.toy import CORRIDOR

DIGESTS = {
    "ETO/ALFWorld-v0": ("6146754ceb163e7c", 72, 6),
    "ETO/WebShop-v0": ("348609497425ac54", 75, 5),
    "ETO/ScienceWorld-v0": ("766cd9e424f98d37", 60, 30),
}
"""A panel never changes: the digest of its tasks, how many they are, and of how many types."""


@pytest.mark.parametrize("env_id", DIGESTS)
def test_the_first_panel_is_what_it_was(env_id: str) -> None:
    part = load_panel("v1")[env_id]
    expected, count, types = DIGESTS[env_id]
    assert digest(list(part.tasks)) == expected
    assert len(set(part.tasks)) == len(part.tasks) == count
    everything = tasks(env_id, **part.env_kwargs)
    kinds = Counter(everything.get(task).type for task in part.tasks)
    assert set(kinds) == {task.type for task in everything}
    assert len(kinds) == types
    assert len(set(kinds.values())) == 1  # the same number of every type
    assert part.env_kwargs["split"] == "test"


def test_what_a_panel_refuses() -> None:
    with pytest.raises(UnknownNameError, match=r"'v11'.*'v1'"):
        load_panel("v11")
    with pytest.raises(UnknownNameError, match="panel v1"):
        part_for("v1", CORRIDOR)
    part = PanelPart("v1", CORRIDOR, {"split": "test"}, ("a",))
    assert part.settle({"tasks": 5}) == {"tasks": 5, "split": "test"}
    with pytest.raises(EtoGymError, match="split='test', got 'train'"):
        part.settle({"split": "train"})


def test_a_changed_list_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = resources.files("eto_gym.agents.evaluation").joinpath("panels", "v1.json")
    told = json.loads(source.read_text(encoding="utf-8"))
    told["benchmarks"][0]["tasks"].pop()
    (tmp_path / "panels").mkdir()
    (tmp_path / "panels/v1.json").write_text(json.dumps(told))
    monkeypatch.setattr(f"{panels.__name__}.resources.files", lambda package: tmp_path)
    with pytest.raises(DataError, match="panel v1"):
        load_panel("v1")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A panel of two small parts, so that playing it takes no time."""
    monkeypatch.chdir(tmp_path)
    first = part_for("v1", "ETO/ALFWorld-v0")
    parts = [
        PanelPart("v1", first.env, {"split": "test"}, first.tasks[:3]),
        PanelPart("v1", CORRIDOR, {"split": "test"}, ("door-1/5", "door-0/4")),
    ]  # fmt: skip
    monkeypatch.setattr(panels, "load_panel", lambda name: {part.env: part for part in parts})


def run(line: str) -> int:
    return main(line.split())


@pytest.mark.usefixtures("small")
def test_a_whole_panel_is_played_handed_in_and_compared(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run("eval --panel v1 --policy expert") == 0
    assert run("eval --panel v1 --policy random") == 0
    folder = tmp_path / "runs/eval"
    handed_in: dict[str, Any] = json.loads((folder / "panel-v1-expert.json").read_text())
    assert handed_in["panel"] == "v1"
    assert [len(report["results"]) for report in handed_in["reports"]] == [3, 2]
    assert [r["task"] for r in handed_in["reports"][1]["results"]] == ["door-1/5", "door-0/4"]
    capsys.readouterr()
    files = [folder / f"panel-v1-{name}.json" for name in ("expert", "random")]
    assert run(f"compare {files[0]} {files[1]}") == 0
    told = capsys.readouterr().out
    assert "the first of the same environment" in told
    rows = compare_rows(load_rows(files))
    assert [item.row.group for item in rows] == ["ETO/ALFWorld-v0", CORRIDOR] * 2
    assert [item.paired is not None for item in rows] == [False, False, True, True]
    lines = [line for line in render(rows).splitlines() if line.startswith("| ")]
    assert [line.split("|")[1].strip() for line in lines[1:]] == [
        f"{name}: {env}" for env in ("ETO/ALFWorld-v0", CORRIDOR) for name in ("expert", "random")
    ]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("alfworld --panel v1 --policy expert --limit 3", "says which tasks are played"),
        ("alfworld --panel v1 --policy expert --split dev", "split='test', got 'dev'"),
        ("--panel v1 --policy expert --out x.jsonl", "leave out --out"),
        ("--panel v1 --policy expert --env-arg a=1", "--env-arg is for one environment"),
        ("--panel v1 --from x.jsonl", "leave out --panel"),
        ("CartPole-v1 --panel v1 --policy expert", "environment of panel v1"),
    ],
)
def test_what_contradicts_a_panel_is_refused_in_a_line(
    line: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(f"eval {line}") == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1


@pytest.mark.usefixtures("small")
def test_one_environment_of_a_panel(tmp_path: Path) -> None:
    assert run("eval alfworld --panel v1 --policy expert --out e.jsonl") == 0
    report = json.loads((tmp_path / "e.report.json").read_text())
    assert report["card"]["tasks"] == 3
    assert report["about"]["panel"] == "v1"
