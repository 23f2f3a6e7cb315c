from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eto_gym.trainers.data.rejection import keep_best
from eto_gym.trainers.loops.rft import RFTLoop
from eto_gym.trainers.loops.stage_data import TRAJECTORIES
from eto_gym.trainers.settings.base import SettingsError
from eto_gym.trainers.settings.data import RejectionSettings
from eto_gym.trainers.settings.loops import RFTSettings
from eto_gym.trainers.settings.methods import SFTSettings
from eto_gym.trainers.settings.presets import preset_values
from eto_gym.trajectories import Trajectory, TrajectoryStore
from tests.trainers.locks import MUON, PLAY, assert_learnt

Play = Callable[..., Trajectory]


def test_the_best_distinct_successes_are_kept(make_play: Play) -> None:
    short, long = make_play(0, rounds=2, sample=0), make_play(0, rounds=5, sample=1)
    again = replace(short, sample=2)  # the same actions
    offered = [
        long,
        short,
        again,
        make_play(0, good=False, sample=3),
        make_play(1, good=False),
        make_play(2, error=True),
        make_play(3),
    ]
    kept, report = keep_best(offered)
    assert kept == [short, offered[-1]]
    assert (report.episodes, report.kept, report.tasks) == (7, 2, 2)
    assert (report.failures, report.errors) == (2, 1)
    assert (report.duplicates, report.over_limit) == (1, 1)
    kept, report = keep_best(offered, RejectionSettings(max_per_task=0))
    assert kept == [short, long, offered[-1]]
    assert report.over_limit == 0
    with pytest.raises(SettingsError, match="max_per_task"):
        RejectionSettings(max_per_task=-1)


@given(
    plays=st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(1, 4)), max_size=12),
    limit=st.integers(0, 3),
)
def test_every_episode_is_kept_or_counted(
    make_play: Play, plays: list[tuple[int, bool, int]], limit: int
) -> None:
    offered = [
        make_play(task, good=good, rounds=rounds, sample=i)
        for i, (task, good, rounds) in enumerate(plays)
    ]
    kept, report = keep_best(offered, RejectionSettings(max_per_task=limit))
    assert report.kept == len(kept)
    assert len(offered) == (
        report.kept + report.errors + report.failures + report.duplicates + report.over_limit
    )
    assert all(trajectory.success for trajectory in kept)
    for task in {trajectory.task_id for trajectory in kept}:
        assert not limit or sum(trajectory.task_id == task for trajectory in kept) <= limit


def test_rft_learns_what_the_experts_do_not_show(locksmith: Path, tmp_path: Path) -> None:
    """A few steps on twelve experts change little; the agent's own successes add the rest."""
    settings = RFTSettings(
        **PLAY,
        model=str(locksmith),
        train_tasks=12,
        explore_tasks=192,
        explore_samples=4,
        explore_temperature=1.0,
        sft=SFTSettings(**MUON, epochs=4),
    )
    report = RFTLoop(settings, tmp_path).run()
    assert_learnt(report, "RFT, iteration 1")
    assert_learnt(report, "RFT, iteration 1", than_control=True)
    assert [stage["name"] for stage in report["stages"]] == [
        "model", "eval-untrained", "experts", "sft", "eval-sft", "explore-1", "kept-1", "rft-1",
        "eval-rft-1", "control", "eval-control",
    ]  # fmt: skip
    kept = next(stage for stage in report["stages"] if stage["name"] == "kept-1")
    (folder,) = (tmp_path / "stages").glob("kept-1-*")
    stored = TrajectoryStore(folder / TRAJECTORIES).load(strict=True)
    assert len(stored) == kept["result"]["kept"]
    again = RFTLoop(settings, tmp_path).run()
    assert all(stage["reused"] for stage in again["stages"])
    assert again["policies"] == report["policies"]


def test_presets_hold_what_the_method_has() -> None:
    paper = preset_values("paper", kind=RFTSettings)
    assert "dpo" not in paper
    assert paper["sft"]["learning_rate"] == 1e-5
