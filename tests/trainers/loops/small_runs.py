"""Runs of loops that are over in seconds, and whether two of them came to the same."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

from eto_gym.cli import train
from eto_gym.files import DIGESTS_FILE
from eto_gym.trainers.loops.run_folder import FINISHED
from eto_gym.trainers.loops.stage_data import TRAJECTORIES
from eto_gym.trainers.loops.step_stage import BRANCHES, VALUES
from eto_gym.trainers.settings.base import TrainSettings


def short(whole: Any, **changes: Any) -> Any:
    """Return settings of a loop in which every training leaves several checkpoints."""
    steps: dict[str, Any] = {
        "max_steps": 2, "batch_size": 2, "micro_batch_size": 2, "save_every": 1,
    }  # fmt: skip
    for item in dataclasses.fields(whole):
        part = getattr(whole, item.name)
        if isinstance(part, TrainSettings):
            changes[item.name] = dataclasses.replace(part, **steps)
    return dataclasses.replace(whole, **{"play_timeout": 300.0, **changes})


def run(method: str, given: Any, folder: Path) -> dict[str, Any]:
    entry = train.LOOPS[method]
    loop = getattr(importlib.import_module(entry.module), entry.loop)
    report: dict[str, Any] = loop(given, folder).run()
    return report


def assert_same(one: Path, two: Path) -> None:
    """Compare two run folders in all but the time that things took."""
    assert (two / FINISHED).read_bytes() == (one / FINISHED).read_bytes()
    files = {path.relative_to(one) for path in one.rglob("*") if path.is_file()}
    assert files == {path.relative_to(two) for path in two.rglob("*") if path.is_file()}
    assert any(path.name == TRAJECTORIES for path in files)
    assert any(path.suffix == ".safetensors" for path in files)
    for path in sorted(files):
        if path.name in (TRAJECTORIES, BRANCHES, VALUES) or path.suffix == ".safetensors":
            assert (two / path).read_bytes() == (one / path).read_bytes(), path
        elif path.suffix == ".json" and path.name not in OF_A_FOLDER:
            read = [(folder / path).read_text().replace(str(folder), "") for folder in (one, two)]
            first, second = (_untimed(json.loads(text)) for text in read)
            assert first == second, path


OF_A_FOLDER = ("config.json", DIGESTS_FILE)
"""Files that tell how and where a run was started, or the digests of others."""

TIMED = (
    "seconds", "train_seconds", "eval_seconds", "tokens_per_second", "reused", "digest",
    "reference",  # whether the scores of the reference lay in the folder already
)  # fmt: skip


def _untimed(value: Any) -> Any:
    """Leave out of a record what differs from one run of the same to the next."""
    if isinstance(value, dict):
        return {name: _untimed(item) for name, item in value.items() if name not in TIMED}
    return [_untimed(item) for item in value] if isinstance(value, list) else value
