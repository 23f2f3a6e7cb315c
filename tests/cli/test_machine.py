"""What a machine refuses is told in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from eto_gym.cli.main import main
from eto_gym.trajectories import Trajectory, TrajectoryStore
from tests.toy import CORRIDOR


@pytest.mark.parametrize(
    "command",
    [
        "rollout alfworld --policy random --limit 1 --out {place}/run",
        "rollout alfworld --policy random --limit 1 --out {place}/run.jsonl",
        "eval alfworld --policy random --limit 1 --out {place}/report.json",
        "expert alfworld --limit 1 --out {place}/experts.jsonl",
    ],
)
def test_a_place_that_cannot_be_written_is_one_line(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Nothing can be made below a file, whoever asks; a read-only folder means nothing to root.
    place = tmp_path / "file"
    place.write_text("in the way", encoding="utf-8")
    assert main(command.format(place=place).split()) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert str(place) in told
    assert told.startswith("eto-gym ")


@pytest.mark.parametrize(
    "content",
    [b"", b"[1]", b"null", b"\xff\xfe", b"\0" * 9, b"[" * 100_000, b'{"env": ', b"\xef\xbb\xbf{}"],
)
def test_a_damaged_settings_file_is_one_line(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.settings.json").write_bytes(content)
    command = f"rollout alfworld --policy random --limit 1 --out {tmp_path}/run.jsonl"
    assert main(command.split()) == 2
    assert "run.settings.json does not say how" in capsys.readouterr().err
    assert (tmp_path / "run.settings.json").read_bytes() == content


@pytest.mark.parametrize("command", ["eval --from {out}", "compare {out} {out}"])
def test_scores_of_damaged_files_are_refused_or_leave_out_what_is_damaged(
    command: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    out = tmp_path / "run.jsonl"
    assert main(f"rollout {CORRIDOR} --policy random --limit 2 --out {out}".split()) == 0
    words = command.format(out=out).split()
    assert main(words) == 0
    lines = out.read_text().splitlines(keepends=True)
    out.write_text(lines[0].replace('"reward":', '"reward":1') + lines[1])
    assert main(words) == 0
    assert "run.jsonl:1: skipping a corrupt line (the record is not the one" in caplog.text
    for content in (b"[" * 20_000, b"null", b"\xff"):
        (tmp_path / "run.settings.json").write_bytes(content)
        capsys.readouterr()
        assert main(words) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert "run.settings.json" in err


def test_a_start_that_failed_does_not_block_the_corrected_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run.jsonl"
    failed = Trajectory(
        "door-1/1", "", (), (), "error", 0.0, False, error="policy", policy="endpoint"
    )
    TrajectoryStore(out).add(failed)
    before = {"env": CORRIDOR, "policy": "endpoint:http://127.0.0.1:1/v1"}
    (tmp_path / "run.settings.json").write_text(json.dumps(before))
    command = f"rollout {CORRIDOR} --policy expert --limit 2 --out {out}"
    assert main(command.split()) == 0
    assert "run.failed.jsonl" in capsys.readouterr().err
    assert [t.success for t in TrajectoryStore(out).load()] == [True, True]
    assert TrajectoryStore(tmp_path / "run.failed.jsonl").load() == [failed]
    assert main(command.replace("expert", "random").split()) == 2
    assert "belongs to another run" in capsys.readouterr().err


def test_the_configurations_for_accelerate_are_named_and_found(
    capsys: pytest.CaptureFixture[str],
) -> None:
    yaml = pytest.importorskip("yaml")
    assert main(["data", "accelerate"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["cpu", "ddp", "fsdp", "zero2", "zero3"]
    for name in names:
        assert main(["data", "accelerate", name]) == 0
        path = Path(capsys.readouterr().out.strip())
        assert yaml.safe_load(path.read_text())["num_processes"] == 2
    assert main(["data", "accelerate", "dpp"]) == 2
    assert "ddp" in capsys.readouterr().err


CLI = [sys.executable, "-m", "eto_gym.cli.main"]


@pytest.mark.parametrize("buffered", ["", "1"])
@pytest.mark.parametrize("command", ["--version", "show --help", "data accelerate"])
def test_a_command_that_nobody_reads_ends_in_silence(command: str, buffered: str) -> None:
    read, write = os.pipe()
    os.close(read)
    environment = {**os.environ, "PYTHONUNBUFFERED": buffered}
    words = [*CLI, *command.split()]
    done = subprocess.run(words, stdout=write, stderr=subprocess.PIPE, env=environment, check=False)
    os.close(write)
    # argparse says nothing of a help that could not be written.
    assert done.returncode == (0 if buffered and "--help" in command else 141)
    assert done.stderr == b""


def test_another_pipe_that_breaks_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(args: object) -> int:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("eto_gym.cli.doctor.run", broken)
    assert main(["doctor"]) == 2
    assert capsys.readouterr().err == "eto-gym doctor: Broken pipe\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("command", ["--version", "show --help"])
def test_an_output_that_cannot_be_written_is_one_line(command: str) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*CLI, *command.split()],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == b"eto-gym: standard output: No space left on device\n"


def test_letters_that_the_output_lacks_are_escaped(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    turns = [{"role": "user", "content": "\u2603"}, {"role": "assistant", "content": "Action: go"}]
    file.write_text(json.dumps({"id": "x", "messages": turns}))
    done = subprocess.run(
        [*CLI, "show", str(file)],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"\\u2603" in done.stdout


def test_a_folder_in_the_place_of_a_file_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "t.jsonl"
    turns = [{"role": "user", "content": "go"}, {"role": "assistant", "content": "Action: go"}]
    file.write_text(json.dumps({"id": "x", "messages": turns}))
    (tmp_path / "folder").mkdir()
    assert main(["view", str(file), "--out", str(tmp_path / "folder")]) == 2
    assert capsys.readouterr().err == f"eto-gym view: {tmp_path / 'folder'}: Is a directory\n"


def test_a_comparison_takes_the_place_of_no_score(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "t.jsonl"
    with TrajectoryStore(file) as store:
        store.add(Trajectory("t0", "toy", (), (), "terminated", 1.0, True))
    kept = file.read_bytes()
    assert main(["compare", str(file), "--json", str(file)]) == 2
    assert "name another file" in capsys.readouterr().err
    assert file.read_bytes() == kept
