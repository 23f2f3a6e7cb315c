"""Finished runs of an earlier version, one of every loop: what is done is recognised, not redone.

`data/recorded_runs.json` holds, for each method, the settings of a small run, the marker of every
stage and the episodes that the report reads; models, pairs and demonstrations are left out. They
were written by the version whose modules lay flat beside each other (commit 14ff7ed), from
`eto-gym train METHOD --config FILE`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eto_gym.cli.main import main
from eto_gym.cli.train import LOOPS

RUNS: dict[str, dict[str, str]] = json.loads(
    (Path(__file__).with_name("recorded_runs.json")).read_text(encoding="utf-8")
)


LATER = {"early-experience", "hpl"}
"""Loops that there were none of in that version."""


def test_every_loop_is_recorded() -> None:
    assert set(RUNS) == set(LOOPS) - LATER


@pytest.mark.parametrize("method", sorted(RUNS))
def test_a_finished_run_is_recognised(method: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name, text in RUNS[method].items():
        path = run / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    before = {path.name for path in (run / "stages").iterdir()}
    config = tmp_path / "settings.json"
    config.write_text((run / "config.json").read_text(encoding="utf-8"), encoding="utf-8")

    assert main(["train", method, "--config", str(config), "--out", str(run)]) == 0

    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert all(stage["reused"] for stage in report["stages"]), "a stage was done again"
    assert {path.name for path in (run / "stages").iterdir()} == before
    assert {f"{stage['name']}-{stage['key']}" for stage in report["stages"]} == before
