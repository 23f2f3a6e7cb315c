from __future__ import annotations

from pathlib import Path

import pytest

from eto_gym.cli.arguments import parse_pairs
from eto_gym.cli.main import main
from eto_gym.cli.rollout import summary
from eto_gym.errors import UnknownNameError
from eto_gym.registration import resolve_env_id
from eto_gym.trajectories import Step, Trajectory, TrajectoryStore


def test_names_of_environments() -> None:
    assert resolve_env_id("ScienceWorld") == "ETO/ScienceWorld-v0"
    assert resolve_env_id("ETO/ALFWorld-v0") == "ETO/ALFWorld-v0"
    with pytest.raises(UnknownNameError, match="Did you mean 'scienceworld'"):
        resolve_env_id("sciencewold")


def test_pairs() -> None:
    assert parse_pairs(["a=1", 'b={"c": [true]}', "d=x=y", "e="]) == {
        "a": 1,
        "b": {"c": [True]},
        "d": "x=y",
        "e": "",
    }
    for wrong in ("a", "=1", "a b=1"):
        with pytest.raises(UnknownNameError, match="NAME=VALUE"):
            parse_pairs([wrong])


def test_expert_writes_trajectories_and_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "expert.jsonl"
    command = ["expert", "alfworld", "--split", "train", "--out", str(out), "--slots", "2"]
    assert main([*command, "--limit", "2"]) == 0
    first = TrajectoryStore(out).load(strict=True)
    assert len(first) == 2
    for trajectory in first:
        assert trajectory.success
        assert trajectory.policy == "expert"
        assert trajectory.messages[-1].role == "assistant"
        assert trajectory.messages[-1].content.startswith("Thought: ")
    before = out.read_bytes()
    with out.open("ab") as file:
        file.write(b'{"task_id": "cut sho')  # as a kill would leave it
    assert main([*command, "--limit", "3"]) == 0
    assert out.read_bytes().startswith(before)
    assert len(TrajectoryStore(out).load(strict=True)) == 3
    assert "all: 3 episodes, 3 successful" in capsys.readouterr().out


def test_expert_chooses_tasks(tmp_path: Path) -> None:
    out = tmp_path / "expert.jsonl"
    command = ["expert", "alfworld", "--out", str(out), "--prompt-style", "none"]
    assert main([*command, "--shuffle-seed", "1", "--limit", "1"]) == 0
    (trajectory,) = TrajectoryStore(out).load()
    assert main([*command, "--task-type", trajectory.task_type, "--limit", "1"]) == 0
    assert {t.task_type for t in TrajectoryStore(out).load()} == {trajectory.task_type}
    assert trajectory.messages[0].role == "user"
    assert len(trajectory.messages) == 2 * len(trajectory.steps)


def test_mistakes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "x.jsonl")]
    for wrong in (
        ["nowhere"],
        ["alfworld", "--split", "nowhere"],
        ["alfworld", "--limit", "0"],
        ["alfworld", "--workers", "0"],
        ["alfworld", "--task-type", "fly"],
        ["alfworld", "--env-arg", "oops"],
    ):
        assert main(["expert", *wrong, *out]) == 2
        assert "expected" in capsys.readouterr().err


def test_expert_is_short_for_rollout_and_mixes_no_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    options = ["--limit", "1", "--split", "dev"]
    assert main(["expert", "alfworld", "--out", str(first), *options]) == 0
    rollout = ["rollout", "alfworld", "--policy", "expert", "--out", str(second), *options]
    assert main(rollout) == 0
    alone, other = (TrajectoryStore(path).load()[0] for path in (first, second))
    assert (alone.task_id, alone.steps, alone.policy) == (other.task_id, other.steps, "expert")
    for change in (["--seed", "7"], ["--prompt-style", "none"]):
        assert main(["expert", "alfworld", "--out", str(first), *options, *change]) == 2
        assert "belongs to another run" in capsys.readouterr().err


def test_summary_counts_errors_apart() -> None:
    step = Step("go", "You go.", 1.0)
    trajectories = [
        Trajectory("a", "x", (), (step,), "terminated", 1.0, True),
        Trajectory("b", "y", (), (step, step, step), "truncated", 0.5, False),
        Trajectory("c", "y", (), (step,), "error", 9.0, False, error="policy"),
    ]
    assert summary(trajectories).splitlines() == [
        "x: 1 episodes, 1 successful, mean reward 1.000, mean steps 1.0, truncated 0, errors 0",
        "y: 2 episodes, 0 successful, mean reward 0.500, mean steps 3.0, truncated 1, errors 1",
        "all: 3 episodes, 1 successful, mean reward 0.750, mean steps 2.0, truncated 1, errors 1",
    ]
