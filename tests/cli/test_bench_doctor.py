"""`eto-gym bench` and `eto-gym doctor`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest

from eto_gym.cli import doctor
from eto_gym.cli.main import main
from eto_gym.cli.throughput import in_own_process, measure_environment, peak_memory_mb
from eto_gym.errors import EtoGymError
from tests.toy import CORRIDOR

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize("spread", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_bench_measures_environments_and_the_scheme_of_the_original(
    spread: bool, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    from eto_gym.agents.models.tiny import build_model, save_tiny, train_tokenizer

    tokenizer = train_tokenizer(["You are at door 1. Error: no action was found."], vocab_size=300)
    model = build_model(tokenizer, hidden_size=32, layers=1, heads=2, mlp_size=32, context=2048)
    folder = save_tiny(model, tokenizer, tmp_path / "model")
    # In this process, which has imported already what takes a new one seconds.
    direct = lambda function, *args, **kwargs: function(*args, **kwargs)  # noqa: E731
    monkeypatch.setattr("eto_gym.cli.throughput.in_own_process", direct)
    figures, plot = tmp_path / "b.json", tmp_path / "b.svg"
    command = ["bench", CORRIDOR, "--num-envs", "2", "--steps", "200", "--policy", str(folder)]
    command += ["--policy-arg", "max_new_tokens=8", "--prompt-style", "none", "--episodes", "6"]
    command += ["--baseline-episodes", "2", "--workers", "1", *["2"] * spread]
    command += ["--json", str(figures), "--plot", str(plot)]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "times the episodes per hour" in said
    measured = json.loads(figures.read_text())["rows"]
    beside = measured.pop(2) if spread else None
    rows = {row["scheme"]: row for row in measured}
    assert list(rows) == ["environment", "engine", "one at a time"]
    if beside is not None:
        assert (beside["scheme"], beside["processes"], beside["episodes"]) == ("engine", 2, 6)
        assert beside["steps"] == rows["engine"]["steps"]
        assert beside["cpu_s"] > rows["engine"]["cpu_s"]
    assert rows["environment"]["steps"] == 200
    assert [rows[name]["episodes"] for name in ("engine", "one at a time")] == [6, 2]
    per_step = {name: r["prefilled_tokens"] / r["steps"] for name, r in rows.items()}
    assert per_step["one at a time"] > 2 * per_step["engine"] > 0
    assert all(row["memory_mb"] > 10 and row["wall_s"] > 0 for row in rows.values())
    assert plot.read_text().startswith("<?xml")


def test_measurements_may_be_asked_for_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []

    def note(args: argparse.Namespace, env_id: str) -> list[object]:
        measured.extend(args.num_envs)
        return []

    monkeypatch.setattr("eto_gym.cli.bench._environments", note)
    for words in ([], ["--slots", "2", "3", "--num-envs", "4"], []):
        assert main(["bench", CORRIDOR, *words]) == 0
    assert measured == [1, 16, 64, 2, 3, 4, 1, 16, 64]


def test_bench_tells_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["bench", CORRIDOR, "--plot", "x.png"]) == 2
    assert 'pip install "eto-gym[bench]"' in capsys.readouterr().err
    assert main(["bench", CORRIDOR, "--steps", "0"]) == 2
    assert "nothing to measure" in capsys.readouterr().err


def test_an_error_in_the_measuring_process_reaches_the_caller() -> None:
    with pytest.raises(EtoGymError, match="no_such_option"):
        in_own_process(measure_environment, CORRIDOR, {"no_such_option": 1}, num_envs=1, steps=1)
    assert peak_memory_mb() > 1


def test_doctor_finds_the_core_working(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "gymnasium" in said
    assert "works" in said
    assert "GB free in" in said
    assert {"", "train", "scienceworld", "bench"} <= set(doctor.requirements())


def test_doctor_fails_only_for_the_core(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor,
        "requirements",
        lambda: {"": ["gymnasium", "no_such_package"], "more": ["no-such-extra"]},
    )
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "BROKEN: no_such_package cannot be imported" in said
    assert 'missing no-such-extra: pip install "eto-gym[more]"' in said


def test_doctor_takes_no_empty_folder_for_data(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ETO_GYM_DATA", str(tmp_path))
    (tmp_path / "alfworld" / "archives").mkdir(parents=True)
    (tmp_path / "webshop").mkdir()
    (tmp_path / "webshop" / "items.json.part").write_bytes(b"begun")
    told = dict(doctor._data())
    assert told["alfworld"].endswith("is not there or empty)")
    assert told["webshop"].endswith("is not there or empty; a download was begun)")
    assert told["smollm2"].startswith("not downloaded (")
    (tmp_path / "alfworld" / "archives" / "a.zip").write_bytes(b"1" * 2_000_000)
    assert dict(doctor._data())["alfworld"].endswith("(2 MB)")
