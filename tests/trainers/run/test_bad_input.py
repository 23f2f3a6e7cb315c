"""Data that teaches nothing, files that are damaged, disks that are full, kills while saving."""

from __future__ import annotations

import errno
import importlib
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eto_gym.errors import DataError, EtoGymError
from eto_gym.files import owned
from eto_gym.prompt import Message
from eto_gym.trainers import DPOSettings, SFTSettings, make_pairs, run_dpo, run_sft
from eto_gym.trainers.run.training import Watch
from eto_gym.trajectories import Trajectory, TrajectoryStore
from eto_gym.trajectories.formats import read_demonstrations, read_pairs, to_paper_dpo, to_paper_sft

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from eto_gym.trainers.errors import DiskFullError  # noqa: E402

Play = Callable[..., Trajectory]

QUICK: dict[str, Any] = {
    "learning_rate": 1e-3,
    "epochs": 2,
    "batch_size": 4,
    "micro_batch_size": 4,
    "max_length": 512,
    "save_every": 2,
}
SILENT = Watch(progress=False)


def sft(make_play: Play, tiny: Path, output: Path, *, resume: bool = False, **changes: Any) -> Any:
    return run_sft(
        SFTSettings(**{**QUICK, **changes}),
        [make_play(n) for n in range(12)],
        model=tiny,
        output=output,
        resume=resume,
        watch=SILENT,
    )


def test_an_output_has_one_training_at_a_time(make_play: Play, tiny: Path, tmp_path: Path) -> None:
    work = tmp_path / "out.work"
    work.mkdir()
    (work / "checkpoint-1").mkdir()
    with owned(work), pytest.raises(EtoGymError, match=f"another run is writing to {work}"):
        sft(make_play, tiny, tmp_path / "out")
    assert list(work.iterdir()) == [work / "checkpoint-1"]
    sft(make_play, tiny, tmp_path / "out")
    assert (tmp_path / "out").is_dir()
    assert not work.exists()


# --- data that teaches nothing -------------------------------------------------------------------


def test_no_pairs_and_all_ties_are_refused_with_a_reason(
    make_play: Play, tiny: Path, tmp_path: Path
) -> None:
    plays = [make_play(n) for n in range(3)]
    pairs, report = make_pairs(plays, plays)
    assert (pairs, dict(report.skipped)) == ([], {"tie": 3})
    with pytest.raises(DataError, match="no pair to train on"):
        run_dpo(DPOSettings(**QUICK), pairs, model=tiny, output=tmp_path / "out", watch=SILENT)
    with pytest.raises(DataError, match="no conversation to train on"):
        run_sft(SFTSettings(**QUICK), [], model=tiny, output=tmp_path / "out", watch=SILENT)
    assert list(tmp_path.iterdir()) == []


def test_a_misspelt_argument_is_refused(make_play: Play, tiny: Path, tmp_path: Path) -> None:
    wrong: dict[str, Any] = {"model": tiny, "output": tmp_path / "out", "resumed": True}
    with pytest.raises(TypeError, match="resumed"):
        run_sft(SFTSettings(**QUICK), [make_play(0)], **wrong)


def test_a_side_of_a_single_token_is_trained(make_play: Play, tiny: Path, tmp_path: Path) -> None:
    """An empty reply is one token: the end of turn."""
    pairs, _ = make_pairs(
        [make_play(n, good=False, rounds=1) for n in range(4)],
        [make_play(n, rounds=1) for n in range(4)],
    )
    empty = (Message("assistant", "", train=True),)
    first = {
        "chosen": replace(pairs[0], chosen=empty),
        "rejected": replace(pairs[0], rejected=empty),
    }
    for side, pair in first.items():
        changed = [pair, *pairs[1:]]
        report = run_dpo(
            DPOSettings(**{**QUICK, "length_normalization": side == "chosen"}),
            changed,
            model=tiny,
            output=tmp_path / side,
            watch=SILENT,
        )
        assert report.data.rows == 4
        assert all(math.isfinite(entry["loss"]) for entry in report.metrics)
        assert report.metrics[-1]["loss"] < report.metrics[0]["loss"]


# --- damaged files -------------------------------------------------------------------------------


def test_corrupt_lines_are_skipped_with_their_numbers_or_refused(
    make_play: Play, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = [json.dumps(to_paper_sft(make_play(n))) for n in range(3)]
    path = tmp_path / "sft.jsonl"
    wrong = '{"id": "x", "conversations": [{"from": "stranger", "value": "?"}]}'
    path.write_text("\n".join([good[0], '{"id": ', good[1], wrong, "7", good[2]]) + "\n")
    trajectories, skipped = read_demonstrations(path)
    assert ([t.task_id for t in trajectories], skipped) == (
        ["task-0", "task-1", "task-2"],
        [2, 4, 5],
    )
    assert f"{path}:4" in caplog.text
    assert "skipped 3 of 6" in caplog.text
    with pytest.raises(DataError, match=r"sft\.jsonl:2"):
        read_demonstrations(path, strict=True)
    path.write_text("\n".join([good[0], wrong]) + "\n")
    with pytest.raises(DataError, match=r"sft\.jsonl:2: turn 1"):
        read_demonstrations(path, strict=True)

    stored = tmp_path / "stored.jsonl"
    with TrajectoryStore(stored) as store:
        store.add(make_play(0))
        store.append({"messages": [], "steps": []})
        store.add(make_play(1))
    trajectories, skipped = read_demonstrations(stored)
    assert (len(trajectories), skipped) == (2, [2])


def test_corrupt_pairs_are_skipped_with_their_numbers_or_refused(
    make_play: Play, tmp_path: Path
) -> None:
    pairs, _ = make_pairs(
        [make_play(n, good=False) for n in range(2)], [make_play(0), make_play(1)]
    )
    records: list[Any] = [to_paper_dpo(pair) for pair in pairs]
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps([records[0], {"id": "x", "prompt": []}, records[1]]))
    read, skipped = read_pairs(path)
    assert ([pair.task_id for pair in read], skipped) == (["task-0", "task-1"], [2])
    with pytest.raises(DataError, match="lacks"):
        read_pairs(path, strict=True)


# --- full disks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", ["safetensors.torch.save_file", "torch.save"])
def test_a_full_disk_at_a_checkpoint_leaves_a_run_that_resumes(
    make_play: Play, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: str
) -> None:
    """The weights of the second checkpoint, or its optimizer, do not fit on the disk."""
    whole = sft(make_play, tiny, tmp_path / "whole")
    full = OSError(errno.ENOSPC, "No space left on device")
    written: list[str] = []

    def refuse(original: Any, position: int) -> Any:
        def write(*args: Any, **kwargs: Any) -> Any:
            path = str(args[position])
            written.append(path)
            if "checkpoint-4" in path:
                Path(path).write_bytes(b"half")
                raise full
            return original(*args, **kwargs)

        return write

    with monkeypatch.context() as patch:
        if victim == "torch.save":
            patch.setattr(torch, "save", refuse(torch.save, 1))
        else:
            modeling: Any = importlib.import_module("transformers.modeling_utils")
            patch.setattr(modeling, "safe_save_file", refuse(modeling.safe_save_file, 1))
        with pytest.raises(DiskFullError, match="the same command again, without --restart"):
            sft(make_play, tiny, tmp_path / "out")
    assert any("checkpoint-4" in path for path in written)
    assert not (tmp_path / "out").exists()
    report = sft(make_play, tiny, tmp_path / "out", resume=True)
    assert [e["loss"] for e in report.metrics] == [e["loss"] for e in whole.metrics]
    assert not (tmp_path / "out.work").exists()


def test_a_full_disk_at_the_end_leaves_no_half_model(
    make_play: Play, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eto_gym.trainers.model import models

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(models, "write_folder", refuse)
        with pytest.raises(DiskFullError, match="the trained model"):
            sft(make_play, tiny, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.work"]
    assert sft(make_play, tiny, tmp_path / "out", resume=True).steps == 6


def test_other_errors_are_not_called_a_full_disk(tmp_path: Path) -> None:
    from eto_gym.trainers.errors import disk_errors

    with pytest.raises(OSError, match="denied"), disk_errors(tmp_path, "a file"):
        raise OSError(errno.EACCES, "denied")
    # What safetensors and torch said when they wrote to a file system of 1 MiB.
    for words in (
        "Error while serializing: I/O error: No space left on device (os error 28)",
        "[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534",
        "PytorchStreamWriter failed writing file data/3: file write failed",
    ):
        with pytest.raises(DiskFullError), disk_errors(tmp_path / "not" / "there", "a file"):
            raise RuntimeError(words)


# --- kills in the middle of saving ---------------------------------------------------------------


class Killed(BaseException):
    """What no handler for errors catches, as a kill."""


def test_a_kill_at_any_move_of_the_finished_model_resumes(
    make_play: Play,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Die before each rename and removal between the temporary folder and the clean end."""
    output = tmp_path / "out"
    moves = 0
    for deadly in range(1, 8):
        shutil.rmtree(tmp_path, ignore_errors=True)
        tmp_path.mkdir()
        shutil.copytree(tiny, output)  # an earlier model, which is to be replaced
        (output / "training.json").write_text("{}")
        count = 0

        def mortal(original: Callable[..., Any], when: int = deadly) -> Callable[..., Any]:
            def move(path: Path, *args: Any, **kwargs: Any) -> Any:
                nonlocal count
                if str(path).startswith(str(output)) and "checkpoint" not in str(path):
                    count += 1
                    if count == when:
                        raise Killed
                return original(path, *args, **kwargs)

            return move

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", mortal(Path.rename))
            patch.setattr(shutil, "rmtree", mortal(shutil.rmtree))
            try:
                sft(make_play, tiny, output, max_steps=2)
            except Killed:
                moves += 1
        report = sft(make_play, tiny, output, resume=True, max_steps=2)
        assert report.steps == 2
        assert (output / "model.safetensors").is_file()
        assert json.loads((output / "training.json").read_text())["fingerprint"]
        assert [p.name for p in tmp_path.iterdir()] == ["out"]
        if count < deadly:
            break
    assert moves >= 3


# --- tokenizers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("lacking", [("pad_token",), ("pad_token", "eos_token")])
def test_a_tokenizer_need_not_say_what_to_pad_with(
    make_play: Play, tiny: Path, tmp_path: Path, lacking: tuple[str, ...]
) -> None:
    """What rows are padded with is read by none, so the losses are the same."""
    base = tmp_path / "base"
    shutil.copytree(tiny, base)
    (base / "special_tokens_map.json").unlink(missing_ok=True)
    file = base / "tokenizer_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({key: config[key] for key in config if key not in lacking}))
    changes: dict[str, Any] = {"epochs": 1, "share_prefix": "off"}
    known = sft(make_play, tiny, tmp_path / "known", **changes)
    report = sft(make_play, base, tmp_path / "out", **changes)
    assert [e["loss"] for e in report.metrics] == [e["loss"] for e in known.metrics]
