"""Demonstrations from files, as a stage of a loop."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eto_gym.errors import DataError
from eto_gym.trainers.loops.data_stages import DataStages
from eto_gym.trainers.loops.play_stages import PlayStages
from eto_gym.trainers.loops.run_folder import digest
from eto_gym.trainers.settings.world import ExpertSettings, WorldSettings
from eto_gym.trajectories import Trajectory
from eto_gym.trajectories.formats import to_paper_sft
from tests.toy import CORRIDOR

Play = Callable[..., Trajectory]


def data_in(folder: Path, **changes: Any) -> DataStages:
    values = {"env": CORRIDOR, "data": "", "model": "m", "progress": False, **changes}
    return DataStages(PlayStages(WorldSettings(**values), folder))


def test_a_strict_reading_is_a_stage_of_its_own(make_play: Play, tmp_path: Path) -> None:
    """What was read with corrupt lines left out must not pass for a file without any."""
    file = tmp_path / "experts.jsonl"
    lines = [json.dumps(to_paper_sft(make_play(n))) for n in range(3)]
    file.write_text("\n".join([*lines, "{"]))
    data = data_in(tmp_path / "run")
    loose = data.experts(ExpertSettings(expert_file=str(file)))
    assert loose.result["skipped_lines"] == [4]
    stamp = file.stat()
    known = {"file": str(file.resolve()), "size": stamp.st_size, "mtime": stamp.st_mtime_ns}
    assert loose.key == digest(["experts", known, []]), "the key is that of runs before"
    strict = ExpertSettings(expert_file=str(file), strict=True)
    with pytest.raises(DataError, match=r"experts.jsonl:4: "):
        data.experts(strict)
    file.write_text("\n".join(lines))
    first = data.experts(strict)
    assert not first.reused
    assert data.experts(strict).reused
    assert not data.experts(ExpertSettings(expert_file=str(file))).reused
