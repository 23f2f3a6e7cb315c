"""The panel of methods: its rows are settings that exist, and its table says what was spent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eto_gym.benchmarks.methods.panel import PANEL, Outcome, settings_of, show
from eto_gym.trajectories import Step, Trajectory


@pytest.mark.parametrize("name", PANEL)
def test_every_row_is_a_method_with_settings_of_its_own(name: str) -> None:
    values = {"train_tasks": 700, "seed": 3, "dpo.epochs": 1.0, "no_such": 1}
    settings = settings_of(PANEL[name], "ETO/ALFWorld-v0", "quickstart", values)
    assert (settings.train_tasks, settings.seed) == (700, 3)
    for path, value in PANEL[name].changes.items():
        part, field = path.split(".")
        assert getattr(getattr(settings, part), field) == value


def _episode(task: str, success: bool) -> Trajectory:
    return Trajectory(
        task_id=task, task_type="t", messages=(), steps=(Step("go", float(success)),),
        outcome="terminated", reward=float(success), success=success, error=None, policy="p",
        env={}, sample=0, seed=0,
    )  # fmt: skip


def test_the_table_pairs_each_method_with_sft_over_seeds(tmp_path: Path) -> None:
    names = [str(i) for i in range(6)]
    found = {
        "sft": {0: Outcome([_episode(n, False) for n in names], 0, 0, "")},
        "eto": {0: Outcome([_episode(n, n != "0") for n in names], 120, 3000, "")},
    }
    show(found, tmp_path)
    text = (tmp_path / "methods.md").read_text("utf-8")
    assert "| eto" in text
    assert "3,000" in text
    _, eto = json.loads((tmp_path / "methods.json").read_text("utf-8"))
    assert eto["env_steps"] == 120
    assert eto["success"] == pytest.approx(5 / 6)
    assert eto["p_against_sft"] == pytest.approx(2 * 0.5**5)
