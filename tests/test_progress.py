"""Long work speaks on any output, and only eto-gym's own logger does."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eto_gym import progress
from eto_gym.progress import Progress


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> list[str]:
    monkeypatch.setattr(progress, "FIRST_LINE", 0.02)
    monkeypatch.setattr(progress, "LONGEST_PAUSE", 0.04)
    caplog.set_level(logging.INFO, logger="eto_gym")
    return caplog.messages


def wait_for(count: int, lines: pytest.LogCaptureFixture) -> None:
    deadline = time.monotonic() + 60
    while len(lines.messages) < count and time.monotonic() < deadline:
        time.sleep(0.01)


def test_work_speaks_where_there_is_no_terminal(
    lines: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with Progress("SFT", total=300, done=100) as shown:
        shown.update(120, "loss 0.412, 5,230 tokens/s")
        wait_for(3, caplog)  # also while nothing more gets done
        shown.update(300)
    assert len(caplog.messages) >= 4
    assert caplog.messages[2].startswith("SFT: step 120/300, loss 0.412, 5,230 tokens/s, ")
    assert caplog.messages[2].endswith(" left")
    assert caplog.messages[-1].startswith("SFT: step 300/300, loss 0.412, 5,230 tokens/s, ")
    assert {record.name for record in caplog.records} == {"eto_gym.progress"}


@pytest.mark.parametrize(("told_at", "lines_said"), [(7, 2), (8, 1)])
def test_the_end_is_said_once(
    told_at: int,
    lines_said: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="eto_gym")
    monkeypatch.setattr(progress, "FIRST_LINE", 0.0)
    monkeypatch.setattr(Progress, "_speak", lambda self: None)
    with Progress("explore", total=8, unit="episode") as shown:
        shown.update(told_at)
        shown._say()
        shown.update(8)
    assert len(caplog.messages) == lines_said
    assert caplog.messages[-1].startswith("explore: episode 8/8, ")


def test_short_work_and_work_without_a_label_say_nothing(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    for label in ("short", None):
        with Progress(label, total=2) as shown:
            shown.update(1, "half")
            shown.update(2)
    assert caplog.messages == []
    assert capsys.readouterr().err == ""


def test_the_time_left_follows_from_this_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    shown = Progress(None, total=400, done=200)
    now[0] = 50.0
    shown.update(300)
    assert shown.line() == "None: step 300/400, 50 s left"


def test_a_terminal_gets_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Progress("SFT", total=3) as shown:
        shown.update(3, "loss 0.1")
    said = capsys.readouterr().err
    assert "SFT: 100%" in said
    assert "loss 0.1" in said


def test_a_bar_on_which_nothing_gets_done_is_alive(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress, "TICK", 0.01)
    said = ""
    deadline = time.monotonic() + 60
    with Progress("eval", total=3):
        while said.count("eval:   0%") < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
            said += capsys.readouterr().err
    assert said.count("eval:   0%") >= 5


PROBE = """
import logging, sys
from eto_gym.cli import main
def talk(argv):
    logging.getLogger().info("root speaks")
    logging.getLogger("torch.distributed").info("torch speaks")
    logging.getLogger("torch").debug("torch whispers")
    logging.getLogger("eto_gym.trainers.loops.loop").info("eto_gym speaks")
    logging.getLogger("other").warning("other warns")
    return 0
main.COMMANDS["probe"] = ("probe", "")
sys.modules["probe"] = type(sys)("probe")
sys.modules["probe"].main = talk
sys.exit(main.main(["probe"]))
"""


def test_the_command_line_lets_no_other_library_speak(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, check=True, cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert ran.stderr.splitlines() == ["eto_gym speaks", "other warns"]
    assert ran.stdout == ""
