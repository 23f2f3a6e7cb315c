"""Intervals, summaries and the paired test, against numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from eto_gym.agents.evaluation.measures import summarise
from eto_gym.agents.evaluation.statistics import compare, mean, proportion
from eto_gym.trajectories import Step, Trajectory


def episode(task: str, success: bool, **changes: Any) -> Trajectory:
    fields: dict[str, Any] = {
        "task_id": task,
        "task_type": "toy",
        "messages": (),
        "steps": (Step("go", "", 0.0), Step(None, "", 0.0)),
        "outcome": "terminated",
        "reward": float(success),
        "success": success,
    }
    return Trajectory(**{**fields, **changes})


def test_wilson_interval() -> None:
    estimate = proportion(8, 10)
    z = 1.959963984540054
    centre = (0.8 + z * z / 20) / (1 + z * z / 10)
    half = z * math.sqrt(0.8 * 0.2 / 10 + z * z / 400) / (1 + z * z / 10)
    assert estimate.mean == 0.8
    assert estimate.low == pytest.approx(centre - half)
    assert estimate.high == pytest.approx(centre + half)
    assert math.isnan(proportion(0, 0).mean)


def test_student_interval() -> None:
    estimate = mean([0.0, 1.0, 2.0])
    assert estimate.mean == 1.0
    assert estimate.high - 1.0 == pytest.approx(4.302652729911275 / math.sqrt(3))
    assert mean([3.0]).high == math.inf


def test_summary_leaves_errors_out_and_counts_them() -> None:
    summary = summarise(
        [
            episode("a", True, usage={"decoded_tokens": 10}),
            episode("b", False, task_type="other", usage={"decoded_tokens": 20}),
            episode("c", False, outcome="error", error="environment"),
        ]
    )
    assert (summary["episodes"], summary["errors"]) == (2, {"environment": 1})
    assert summary["success"]["mean"] == summary["reward"]["mean"] == 0.5
    assert [summary[k] for k in ("steps", "format_errors", "generated_tokens")] == [2.0, 0.5, 15.0]
    types = [(name, rate["mean"]) for name, rate in summary["by_type"].items()]
    assert types == [("other", 0.0), ("toy", 1.0)]
    assert list(summary["success"]) == ["mean", "low", "high"]


def test_paired_test_counts_changes_on_shared_episodes() -> None:
    before = [episode(f"t{i}", i < 3) for i in range(10)]
    after = [episode(f"t{i}", i in (0, 1, 4, 5, 6, 7, 8)) for i in range(9)]
    after.append(episode("t9", True, outcome="error", error="policy"))
    test = compare(before, after)
    assert (test.episodes, test.gained, test.lost) == (9, 5, 1)
    assert test.p == pytest.approx(2 * (1 + 6) / 2**6)
    assert compare(before, before).p == 1.0
