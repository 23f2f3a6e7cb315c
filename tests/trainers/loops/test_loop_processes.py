"""A loop in two processes ends as it does in one, also when it was cut short in between."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eto_gym.trainers import SFTSettings
from eto_gym.trainers.loops.run_folder import FINISHED
from eto_gym.trainers.loops.stage_data import PAIRS, TRAJECTORIES
from eto_gym.trainers.settings.base import SettingsError
from tests.trainers.loops.shared_loop import KILLED_AFTER, run, run_and_die
from tests.trainers.processes import fork, load_weights

torch = pytest.importorskip("torch")
from torch.multiprocessing.spawn import ProcessExitedException  # noqa: E402

pytest.importorskip("accelerate")


@pytest.mark.timeout(600)
def test_two_processes_equal_one(locksmith: Path, tmp_path: Path) -> None:
    with pytest.raises(ProcessExitedException, match="SIGKILL"):
        fork(run_and_die, str(locksmith), str(tmp_path))
    whole, killed, alone = (tmp_path / name for name in ("whole", "killed", "alone"))
    report = run(str(locksmith), alone)
    assert 0 < report["policies"][-1]["success"]["mean"] < 1
    _assert_equal(whole, alone)

    (cut_short,) = killed.glob("run/stages/explore-1-*")
    assert not (cut_short / TRAJECTORIES).exists()
    parts = {path.name: path for path in cut_short.glob("*.part-*")}
    assert len(parts["trajectories.part-1.jsonl"].read_text().splitlines()) == KILLED_AFTER
    run(str(locksmith), killed)
    assert not list(killed.rglob("*.part-*"))
    _assert_equal(killed, alone)


def test_each_process_takes_its_share_of_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eto_gym.trainers.run.base_trainer import training_arguments

    def split(batch: int, micro: int) -> tuple[int, int]:
        settings = SFTSettings(batch_size=batch, micro_batch_size=micro)
        arguments = training_arguments(settings, tmp_path)
        rows, passes = "per_device_train_batch_size", "gradient_accumulation_steps"
        return arguments[rows], arguments[passes]

    assert split(12, 4) == (4, 3)
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert split(12, 2) == (2, 2)
    assert split(12, 6) == (4, 1)
    assert split(3, 8) == (1, 1)
    for batch in (2, 10):
        with pytest.raises(SettingsError, match="multiple of micro_batch_size times devices"):
            split(batch, 2)


def _assert_equal(ours: Path, theirs: Path) -> None:
    """Compare two runs in all that does not depend on time or rounding."""
    assert (ours / "run" / FINISHED).exists()
    stages = {path.name for path in theirs.glob("run/stages/*")}
    assert stages == {path.name for path in ours.glob("run/stages/*")}
    for pattern in (TRAJECTORIES, PAIRS, "sft.json"):
        files = list(theirs.rglob(pattern))
        assert files
        for file in files:
            assert (ours / file.relative_to(theirs)).read_bytes() == file.read_bytes(), file
    one, two = (json.loads((x / "run" / "report.json").read_text()) for x in (theirs, ours))
    for row in (*one["policies"], *two["policies"]):
        del row["train_seconds"], row["eval_seconds"]
        del row["card"]["model"], row["card"]["model_digest"]  # of rounded weights
    assert one["policies"] == two["policies"]
    reports = list(theirs.rglob("training.json"))
    assert len(reports) == 3
    for file in reports:
        folder = ours / file.parent.relative_to(theirs)
        first, second = (json.loads((x / file.name).read_text()) for x in (file.parent, folder))
        assert first["data"] == second["data"]
        assert _series(first, "loss") == pytest.approx(_series(second, "loss"), rel=1e-5)
        assert _series(first, "grad_norm") == pytest.approx(_series(second, "grad_norm"), rel=1e-3)
        weights = [load_weights(path) for path in (file.parent, folder)]
        for name, value in weights[0].items():
            assert torch.allclose(value, weights[1][name], atol=1e-4), (file, name)


def _series(report: dict[str, Any], name: str) -> list[float]:
    return [entry[name] for entry in report["metrics"]]
