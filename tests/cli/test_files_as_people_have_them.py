"""Settings and lists of tasks in the encodings and line ends that editors write."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

import pytest

from eto_gym.cli.main import main
from eto_gym.trajectories import TrajectoryStore
from tests.toy import CORRIDOR

Capture = pytest.CaptureFixture[str]
TASKS = "door-1/5\ndoor-2/6\n"


@pytest.mark.parametrize(
    "content",
    [
        TASKS.encode(),
        TASKS.rstrip().encode(),
        codecs.BOM_UTF8 + TASKS.encode(),
        TASKS.encode("utf-16"),
        TASKS.replace("\n", "\r\n").encode(),
        TASKS.replace("\n", "\r").encode(),
        TASKS.replace("\n", " \n\n\t").encode(),
    ],
    ids=["plain", "no-end", "bom", "utf-16", "crlf", "cr", "blanks"],
)
def test_a_list_of_tasks_is_read(content: bytes, tmp_path: Path) -> None:
    names, out = tmp_path / "tasks.txt", tmp_path / "r.jsonl"
    names.write_bytes(content)
    words = ["rollout", CORRIDOR, "--policy", "random", "--task-file", str(names)]
    assert main([*words, "--out", str(out)]) == 0
    assert [t.task_id for t in TrajectoryStore(out).load()] == ["door-1/5", "door-2/6"]


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"door-1/5\n\xe9\n", b"PK\x03\x04", b""])
def test_what_is_no_list_of_tasks_is_one_line(
    content: bytes, tmp_path: Path, capsys: Capture
) -> None:
    names = tmp_path / "tasks.txt"
    names.write_bytes(content)
    words = ["rollout", CORRIDOR, "--policy", "random", "--task-file", str(names)]
    assert main([*words, "--out", str(tmp_path / "r.jsonl")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert content == b"" or str(names) in err
    assert list(tmp_path.iterdir()) == [names]


SETTINGS = "learning_rate: 1e-5\nmax_steps: 1\nmax_length: 2000\n"


@pytest.mark.parametrize(
    "content",
    [
        SETTINGS.encode(),
        codecs.BOM_UTF8 + SETTINGS.replace("\n", "\r\n").encode(),
        SETTINGS.replace("1e-5", "0.00001").encode(),
        SETTINGS.encode("utf-16"),
    ],
    ids=["plain", "bom-crlf", "decimal", "utf-16"],
)
def test_settings_are_read(content: bytes, tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("jsonargparse")
    config = tmp_path / "settings.yaml"
    config.write_bytes(content)
    words = ["train", "sft", "--model", "m", "--data", "d", "--out", str(tmp_path / "o")]
    assert main([*words, "--config", str(config), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    told = dict(line.strip().split(": ", 1) for line in shown.splitlines() if ": " in line)
    assert float(told["learning_rate"].split()[0]) == 1e-5
    assert told["max_length"].split()[0] == "2000"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"learningrate: 0.1\n", "Did you mean 'learning_rate'"),
        (b"a: [1\n", "settings.yaml:2: "),
        (b"\xff\xfe\x00", "settings.yaml"),
        (json.dumps([1]).encode(), "settings.yaml: expected settings"),
        (b"\0", ""),
        (b"learning_rate: fast\n", "learning_rate"),
        (b"- x\n" * 3, ""),
        (b"[" * 5_000, ""),
        (b"&a [*a]", ""),
        (b"!!python/object/apply:os.system ['true']", ""),
    ],
)
def test_what_are_no_settings_is_refused_without_a_traceback(
    content: bytes, told: str, tmp_path: Path, capsys: Capture
) -> None:
    pytest.importorskip("jsonargparse")
    config = tmp_path / "settings.yaml"
    config.write_bytes(content)
    words = ["train", "sft", "--model", "m", "--data", "d", "--out", str(tmp_path / "o")]
    status: object = None
    try:
        status = main([*words, "--config", str(config), "--dry-run"])
    except SystemExit as end:
        status = end.code
    assert status == 2
    err = capsys.readouterr().err
    assert told in err
    assert "Traceback" not in err
