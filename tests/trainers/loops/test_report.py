"""Reports of runs that have too little to tell: strict JSON, and a table without NaN."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from eto_gym.agents.evaluation.measures import summarise
from eto_gym.agents.evaluation.statistics import compare
from eto_gym.agents.policies import expert_policy
from eto_gym.agents.rollout.collect import RolloutSpec, collect
from eto_gym.agents.rollout.engine import plan_episodes
from eto_gym.trainers.loops.report import (
    CONTROL,
    Evaluated,
    conclusion,
    make_report,
    render,
    write_report,
)
from eto_gym.trainers.loops.run_folder import RunFolder
from eto_gym.trainers.loops.stage_data import write_trajectories
from eto_gym.trainers.settings.loops import EarlyExperienceSettings, ETOSettings, RFTSettings
from eto_gym.trajectories import Trajectory
from tests.toy import CORRIDOR


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
            summary = summarise(played)
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


@pytest.mark.parametrize(
    ("gained", "lost", "p", "reward", "start"),
    [
        (9, 52, 2e-8, (-0.215, -0.29, -0.14), "WORSE: ETO, iteration 2 lost to SFT"),
        (52, 9, 2e-8, (0.215, 0.14, 0.29), "Better: ETO, iteration 2 beats SFT"),
        (20, 22, 0.9, (-0.01, -0.05, 0.03), "No gain shown"),
        (0, 0, 1.0, (-0.2, -0.3, -0.1), "WORSE"),  # where an episode earns parts of a reward
        (1, 0, 1.0, (0.2, 0.1, 0.3), "Better"),
        (1, 0, 1.0, (1.0, float("-inf"), float("inf")), "No gain shown"),
    ],
)
def test_the_last_line_says_what_became_of_the_method(
    gained: int, lost: int, p: float, reward: tuple[float, float, float], start: str
) -> None:
    test: dict[str, Any] = {"gained": gained, "lost": lost, "p": p}
    test["reward"] = dict(zip(("mean", "low", "high"), reward, strict=True))
    other = {**test, "gained": 50, "lost": 50, "p": 1.0}
    policies = [
        {"policy": "untrained (tiny)", "paired": other},
        {"policy": "SFT"},
        {"policy": "ETO, iteration 1", "paired": other},
        {"policy": "ETO, iteration 2", "paired": test},
        {"policy": CONTROL, "paired": other},
    ]
    line = conclusion({"reference": "SFT", "policies": policies})
    assert line.startswith(start)
    assert (
        f"({gained} episodes gained, {lost} lost, p {p:.2g}; mean reward {reward[0]:+.3f}" in line
    )
    assert "\n" not in line


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        (0, "eto-1 changed nothing: it keeps the weights that it began with, as dev tasks tell"),
        (3, "eto-1 keeps the weights of 3 of 6, as dev tasks tell"),
        (6, None),
        (None, None),
    ],
)
def test_a_training_that_was_taken_back_is_told(kept: int | None, words: str | None) -> None:
    interval = {"mean": 0.5, "low": 0.4, "high": 0.6}
    row = {"policy": "SFT", "episodes": 9, "success": interval, "reward": interval, "errors": {}}
    row |= {"steps": 1.0, "generated_tokens": 1.0, "format_errors": 0.0}
    result = {"kept_step": kept, "scores": [[0, 0.2], [3, 0.2], [6, 0.1]]}
    stages = [
        {"name": "eto-1", "seconds": 1.0, "reused": False, "result": result},
        {"name": "pairs", "seconds": 1.0, "reused": False, "result": None},
    ]
    about = {"env": "E", "env_kwargs": {}, "preset": "p", "seed": 0, "model": "m"}
    text = render({**about, "reference": "SFT", "policies": [row], "stages": stages})
    if words is None:
        assert "dev tasks" not in text
    else:
        assert f"{words} (success 0.200 after 0, 0.200 after 3, 0.100 after 6)." in text


@pytest.mark.parametrize(
    ("method", "kind", "made"),
    [
        ("early-experience", EarlyExperienceSettings, {"early experience": "sft-world"}),
        ("eto", ETOSettings, {"ETO, iteration 1": "eto-1", "ETO, iteration 2": "eto-2"}),
        ("rft", RFTSettings, {"RFT, iteration 1": "rft-1"}),
    ],
)
@pytest.mark.parametrize("controlled", [True, False])
def test_whatever_a_method_made_is_compared_with_the_control(
    method: str, kind: Any, made: dict[str, str], controlled: bool, tmp_path: Path
) -> None:
    """Whatever the stages are called that made it."""
    spec = RolloutSpec(CORRIDOR, expert_policy, prompt_style="none")
    played = collect(spec, plan_episodes(["door-0/0", "door-1/1"]))
    folder = RunFolder(tmp_path)

    def keep(path: Path) -> Any:
        write_trajectories(path, played)
        return summarise(played)

    names = {"untrained (m)": "base", "SFT": "sft", **made}
    names |= {CONTROL: "control"} if controlled else {}
    policies = [
        Evaluated(
            label,
            folder.run(name, lambda _: {}, settings=None),
            folder.run(f"eval-{name}", keep, settings=None),
        )
        for label, name in names.items()
    ]
    report = make_report(
        kind(env=CORRIDOR, data="", model="m"),
        method=method,
        reference="SFT",
        policies=policies,
        stages=folder.stages,
    )
    rows = report["policies"]
    compared = [row["policy"] for row in rows if "paired_with_control" in row]
    assert compared == (list(made) if controlled else [])
    assert [row["policy"] for row in rows if "paired" not in row] == ["SFT"]
    assert ("Paired with the control" in render(report)) == controlled
