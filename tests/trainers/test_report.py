"""Reports of runs that have too little to tell: strict JSON, and a table without NaN."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eto_gym.agents.evaluation import compare, summarise
from eto_gym.trainers.report import render, write_report
from eto_gym.trainers.run_folder import RunFolder
from eto_gym.trajectories import Trajectory


def _refuse(word: str) -> None:
    raise AssertionError(f"{word} is not JSON")


def test_a_report_of_one_episode_and_of_none(
    make_play: Callable[..., Trajectory], tmp_path: Path
) -> None:
    evaluations = {"one": [make_play(0)], "none": [make_play(0, error=True)]}

    def report() -> dict[str, Any]:
        """Read every summary from its stage, as a loop does."""
        folder = RunFolder(tmp_path)
        rows = []
        for name, played in evaluations.items():
            summary = summarise(played).to_json()
            stage = folder.run(name, lambda _: summary, settings=None)  # noqa: B023
            paired = asdict(compare(evaluations["one"], played))
            rows.append({"policy": name, **stage.result, "paired": paired})
        about = {"env": "E", "env_kwargs": {}, "preset": "p", "seed": 0, "model": "m"}
        return {**about, "reference": "one", "policies": rows, "stages": []}

    write_report(tmp_path, report())
    for path in tmp_path.rglob("*.json"):
        json.loads(path.read_text(), parse_constant=_refuse)
    one, none = json.loads((tmp_path / "report.json").read_text())["policies"]
    assert one["reward"] == {"mean": 1.0, "low": None, "high": None}
    assert none["success"] == {"mean": None, "low": None, "high": None}
    assert none["steps"] is None
    text = (tmp_path / "report.md").read_text()
    assert "nan" not in text
    assert "None" not in text
    assert "1.000 [0.207, 1.000] | 1.000 " in text  # an interval of one success, none of one mean
    assert render(report()) + "\n" == text  # the same from summaries that were read back
