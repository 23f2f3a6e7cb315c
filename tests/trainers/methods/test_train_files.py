"""`eto-gym train sft|dpo` on files of every form."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eto_gym.agents.policies import expert_policy
from eto_gym.cli import main as command
from eto_gym.trajectories import Trajectory, TrajectoryStore
from eto_gym.trajectories.formats import to_hf_messages, to_hf_preference, to_paper_dpo
from eto_gym.trajectories.formats import to_paper_sft as to_paper
from tests.trainers.locks import GENTLE, MUON, assert_model_learnt, model_policy, play_locks

OPTIONS = [f"--{name}={value}" for name, value in MUON.items()] + ["--progress=false"]


def _train(method: str, data: Path, model: Path, out: Path, *more: str) -> int:
    words = ["train", method, f"--data={data}", f"--model={model}", f"--out={out}", *OPTIONS]
    return command.main([*words, *more])


def _write(path: Path, records: list[Any]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    else:
        path.write_text(json.dumps(records))
    return path


def test_sft_learns_from_the_papers_file(
    locksmith: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experts = play_locks(expert_policy)
    data = _write(tmp_path / "sft.json", [to_paper(t) for t in experts])
    assert _train("sft", data, locksmith, tmp_path / "out", "--epochs=2") == 0
    assert "48 steps" in capsys.readouterr().out
    assert_model_learnt(locksmith, tmp_path / "out")
    stamp = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
    assert _train("sft", data, locksmith, tmp_path / "out", "--epochs=2") == 0
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == stamp


def _store(path: Path, trajectories: list[Trajectory]) -> Path:
    with TrajectoryStore(path) as store:
        for trajectory in trajectories:
            store.add(trajectory)
    return path


def test_dpo_learns_from_stored_trajectories(
    locksmith: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = _store(tmp_path / "own.jsonl", play_locks(model_policy(locksmith), tasks=192))
    experts = _store(tmp_path / "experts.jsonl", play_locks(expert_policy, tasks=192))
    more = [f"--{name}={value}" for name, value in GENTLE.items()]
    more += ["--optimizer=adamw", "--schedule=constant", "--epochs=3"]
    assert _train("dpo", data, locksmith, tmp_path / "out", *more) == 2
    assert "--pairing.contrast self" in capsys.readouterr().err
    more.append(f"--experts={experts}")
    assert _train("dpo", data, locksmith, tmp_path / "out", *more) == 0
    assert ": 192 pairs; not paired: none" in capsys.readouterr().out
    assert_model_learnt(locksmith, tmp_path / "out")


def test_every_form_gives_the_same_rows(
    make_play: Callable[..., Trajectory],
    tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from eto_gym.trainers import make_pairs

    plays = [make_play(n) for n in range(4)]
    bad = [make_play(n, good=False) for n in range(4)]
    pairs, _ = make_pairs(bad, plays)
    files = {
        "sft": [
            _write(tmp_path / "paper.json", [to_paper(t) for t in plays]),
            _write(tmp_path / "hf.jsonl", [to_hf_messages(t) for t in plays]),
            _store(tmp_path / "stored.jsonl", [*plays, *bad]),
        ],
        "dpo": [
            _write(tmp_path / "paper-pairs.jsonl", [to_paper_dpo(p) for p in pairs]),
            _write(tmp_path / "hf-pairs.json", [to_hf_preference(p) for p in pairs]),
            _store(tmp_path / "agent.jsonl", bad),
        ],
    }
    for method, paths in files.items():
        reports = []
        for path in paths:
            more = ["--max_length=512", "--epochs=1"]
            if path.stem == "agent":
                more.append(f"--experts={_store(tmp_path / 'experts.jsonl', plays)}")
            out = tmp_path / f"{method}-{path.stem}"
            assert _train(method, path, tiny, out, *more) == 0
            reports.append(json.loads((out / "training.json").read_text()))
        assert reports[0]["data"]["rows"] == 4
        assert len({report["fingerprint"] for report in reports}) == 1
    assert "left out 4 of 8 trajectories" in capsys.readouterr().out


def test_bad_records_are_skipped_with_their_number_or_refused(
    make_play: Callable[..., Trajectory],
    tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = _write(tmp_path / "data.jsonl", [to_paper(make_play(n)) for n in range(3)])
    with data.open("a") as file:
        file.write('{"id": 3, "conversations": [\n{"id": 4, "conversations": []}\n')
    assert _train("sft", data, tiny, tmp_path / "out", "--max_length=512", "--epochs=1") == 0
    assert f"{data}:4: skipping a corrupt line" in caplog.text
    assert "skipped 2 records or lines, the first: [4, 5]" in capsys.readouterr().out
    assert f"{data}:5: skipping a corrupt record (record '4' holds no assistant turn" in caplog.text
    assert _train("sft", data, tiny, tmp_path / "strict", "--strict", "--max_length=512") == 2
    assert f"{data}:4:" in capsys.readouterr().err
    assert not (tmp_path / "strict").exists()
    assert _train("dpo", tmp_path / "none.json", tiny, tmp_path / "none") == 2
    assert "there is no file" in capsys.readouterr().err


def test_dry_run_prints_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    for method in ("sft", "dpo"):
        words = ["train", method, "--data=d", "--model=m", "--out=o", "--seed=7", "--dry-run"]
        assert command.main(words) == 0
        printed = capsys.readouterr().out
        assert "seed: 7" in printed
        assert "data: d" in printed
