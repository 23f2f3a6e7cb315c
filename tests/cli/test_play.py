from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import pytest

from eto_gym.cli.main import main
from eto_gym.cli.play import Game, _lines, task_reference
from eto_gym.cli.terminal import printable
from eto_gym.env import text_env
from eto_gym.errors import EngineError, EtoGymError
from eto_gym.trajectories import TrajectoryStore
from tests.toy import make_corridor

CLI = [sys.executable, "-m", "eto_gym.cli.main", "play"]


@pytest.fixture
def shown() -> list[str]:
    return []


@pytest.fixture
def game(tmp_path: Path, shown: list[str]) -> Game:
    game = Game(make_corridor(), save=tmp_path / "play.jsonl", show=shown.append)
    game.start("door-1/1", seed=0)
    return game


def test_actions_undo_and_the_end(game: Game, shown: list[str]) -> None:
    start = shown[-1]
    for line in ("back", "go", "go", ":u 2", ":u", ":u"):
        assert game.handle(line)
    assert "[there is nothing to undo]" in shown
    assert game.trajectory().steps == ()
    assert shown[-2].removeprefix("[1 undone]\n") in start
    game.handle("go")
    game.handle("open")
    assert shown[-1].startswith("[the episode is solved")
    game.handle("back")
    assert "over" in shown[-1]
    game.handle(":u")
    game.handle("open")
    assert game.trajectory().success
    assert [step.action for step in game.env.steps] == ["go", "open"]


def test_actions_and_commands_are_completed(game: Game) -> None:
    assert game.complete("g") == ["go"]
    assert game.complete("G") == ["go"]
    assert ":u" in game.complete(":")
    assert game.complete("nonsense") == []
    game.handle("go")
    game.handle("open")
    assert game.complete("") == [], "the episode is over"


def test_ctrl_c_drops_the_line_and_not_the_game(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed: list[str | BaseException] = ["go", KeyboardInterrupt(), "open", EOFError()]

    def read(_: str) -> str:
        line = typed.pop(0)
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.setattr("builtins.input", read)
    assert list(_lines(lambda _: [])) == ["go", "open"]
    assert ":q quits" in capsys.readouterr().out


def test_numbered_actions(game: Game, shown: list[str]) -> None:
    game.handle(":a")
    listed = [line.split(maxsplit=1)[1] for line in shown[-1].splitlines()]
    assert listed == sorted(listed)
    game.handle(":a g")
    assert shown[-1] == "1  go"
    game.handle(":1")
    assert game.env.steps[-1].action == "go"
    game.handle(":1")  # the list was for the state before
    assert "no action 1" in shown[-1]
    game.handle(":a nonsense")
    assert shown[-1] == "[no such action]"
    assert not game.handle(":q")


def test_saved_trajectories_hold_thoughts(game: Game, shown: list[str], tmp_path: Path) -> None:
    game.handle(":s")
    assert "nothing to save" in shown[-1]
    game.handle(":t The door is one step to the right.")
    game.handle("go")
    game.handle(":s")
    game.handle("open")
    game.handle(":s")
    half, whole = TrajectoryStore(tmp_path / "play.jsonl").load(strict=True)
    assert (half.outcome, half.success) == ("truncated", False)
    assert (whole.outcome, whole.success, whole.reward) == ("terminated", True, 1.0)
    assert whole.policy == "human"
    assert half.key != whole.key
    replies = [m.content for m in whole.messages if m.train]
    assert replies[0] == "Thought: The door is one step to the right.\nAction: go"
    assert whole.messages[-1].content.endswith("Action: open")


def test_sessions_do_not_take_each_others_samples(tmp_path: Path) -> None:
    file = tmp_path / "play.jsonl"
    for action, task in (("go", "door-1/1"), ("back", "door-1/1"), ("go", "door-2/2")):
        game = Game(make_corridor(), save=file, show=lambda _: None)
        game.start(task)
        game.handle(action)
        game.handle(":s")
    game.handle("open")
    game.handle(":s")
    keys = [item.key for item in TrajectoryStore(file).load(strict=True)]
    assert keys == [("door-1/1", 0), ("door-1/1", 1), ("door-2/2", 0), ("door-2/2", 1)]
    assert main(["eval", "--from", str(file)]) == 0


@pytest.mark.parametrize(
    "typed", ['"go"', "go.", "`go`", "*", ".", "...", "Action: go", "<think>go", "go\u3000", "a\0b"]
)
def test_what_is_typed_is_played_as_it_is(game: Game, tmp_path: Path, typed: str) -> None:
    seen = []
    step = game.env.env.step
    game.env.env.step = lambda action: seen.append(action) or step(action)  # type: ignore
    game.handle(typed)
    assert seen == [typed.strip()]
    assert game.env.steps[-1].action == typed.strip()
    game.handle(":s")
    (stored,) = TrajectoryStore(tmp_path / "play.jsonl").load(strict=True)
    assert [item.action for item in stored.steps] == seen
    game.handle(":u")
    assert game.env.steps == ()


@pytest.mark.parametrize("digits", ["9" * 30, "9" * 5000])
def test_numbers_of_many_digits_are_answered(game: Game, shown: list[str], digits: str) -> None:
    for line, told in ((f":{digits}", "no action"), (f":u {digits}", "expected a number")):
        assert game.handle(line)
        assert told in shown[-1]
    assert game.handle(f":n {digits}")
    assert shown[-1].startswith("[expected task")
    assert main(["play", "alfworld", "--task", digits]) == 2


def test_a_seed_below_zero_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["play", "alfworld", "--seed", "-1"]) == 2
    assert capsys.readouterr().err == "eto-gym play: expected --seed >= 0, got -1\n"


def test_the_expert_helps(game: Game, shown: list[str]) -> None:
    game.handle(":e")
    assert any(line.startswith("Thought: ") for line in shown)
    assert len(game.env.steps) == 1


def test_other_commands(game: Game, shown: list[str]) -> None:
    for line, expected in (
        (":i", "[task door-1/1, step 0"),
        (":p", "Open the right door."),
        (":h", "Type an action"),
        (":x", "There is no command :x"),
        (":u many", "[expected a number"),
        (":n door-9/9", "[expected task"),
        (":n 2", "[task door-2/2]"),
    ):
        assert game.handle(line)
        assert shown[-1].startswith(expected), line
    assert game.handle("   ")


def test_terminal_controls_are_not_passed_on() -> None:
    assert printable("a\x1b[2Jb\tc\nd\x9be é") == "a?[2Jb\tc\nd?e é"
    assert task_reference("12") == 12
    assert task_reference("boil/12") == "boil/12"
    assert task_reference(None) is None


def test_piped_input(tmp_path: Path) -> None:
    save = tmp_path / "saved" / "play.jsonl"
    lines = [":a", ":1", "nonsense \udcff", ":s", ":u", ":i"]
    done = subprocess.run(
        [*CLI, "alfworld", "--task", "0", "--seed", "1", "--save", str(save)],
        input="\n".join(lines).encode("utf-8", "surrogateescape"),
        capture_output=True,
        timeout=120,
        check=False,
    )
    output = done.stdout.decode()
    assert done.returncode == 0, done.stderr.decode()
    assert "Your task is to" in output
    assert "[1 undone]" in output
    assert "step 1" in output
    (trajectory,) = TrajectoryStore(save).load(strict=True)
    assert len(trajectory.steps) == 2


def test_mistakes_are_named() -> None:
    for wrong in (["nowhere"], ["alfworld", "--task", "nowhere"]):
        done = subprocess.run([*CLI, *wrong], capture_output=True, text=True, input="", check=False)
        assert done.returncode == 2
        assert "expected" in done.stderr
        assert "Traceback" not in done.stderr


def test_in_a_terminal() -> None:
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*CLI, "alfworld", "--task", "0"], stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    seen = ""

    def until(text: str, within: float = 60.0) -> None:
        """Wait for a text; what comes next has to come after it."""
        nonlocal seen
        deadline = time.monotonic() + within
        while text not in seen:
            assert time.monotonic() < deadline, seen
            if select.select([master], [], [], 0.2)[0]:
                seen += os.read(master, 65536).decode(errors="replace")
        seen = seen.partition(text)[2]

    def type_line(line: str, *, answer: str) -> None:
        os.write(master, f"{line}\n".encode())
        until(answer)
        until("> ")  # what is typed before the program reads may be lost

    try:
        until("> ")
        type_line(":a", answer="1  ")
        type_line("look", answer="you see nothing")
        type_line(":u", answer="[1 undone]")
        os.write(master, b"\x04")  # end of input
        with contextlib.suppress(OSError):  # the terminal is gone once the program has ended
            until("no such text", within=30)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(master)


@pytest.mark.parametrize(
    ("env_id", "before", "wanted"),
    [
        ("ETO/WebShop-v0", ["search[end table]"], "click["),  # and no search of its own
        ("ETO/ALFWorld-v0", ["inventory"], "go to "),
    ],
)
def test_the_expert_goes_on_from_what_the_player_did(
    tmp_path: Path, env_id: str, before: list[str], wanted: str
) -> None:
    shown: list[str] = []
    game = Game(gym.make(env_id, split="test"), save=tmp_path / "s.jsonl", show=shown.append)
    game.start(0)
    for line in before:
        game.handle(line)
    game.handle(":e")
    action = game.env.steps[-1].action
    assert action is not None
    assert action.startswith(wanted)
    for line in (":e", "look", ":u 2", ":e"):  # what was undone is forgotten
        game.handle(line)
    assert len(game.env.steps) == len(before) + 2
    done = [step.action for step in game.env.steps]
    game.handle(f":u {len(done)}")
    for done_action in done[:-1]:
        game.handle(str(done_action))
    game.handle(":e")
    assert game.env.steps[-1].action == done[-1]


def test_a_number_is_a_place_in_the_split_on_every_benchmark(tmp_path: Path) -> None:
    env = gym.make("ETO/WebShop-v0", split="test")
    shown: list[str] = []
    game = Game(env, save=tmp_path / "s.jsonl", show=shown.append)
    game.start(3)
    assert f"[task {text_env(env).task_set[3].id}]" in shown[0]
    with pytest.raises(EtoGymError, match="position"):
        game.start(10**6)


def test_a_file_that_cannot_be_written_ends_no_game(
    game: Game, shown: list[str], tmp_path: Path
) -> None:
    game._save = tmp_path
    game.handle("left")
    assert game.handle(":s")
    assert shown[-1] == f"[{tmp_path}: Is a directory]"
    assert game.handle(":i")


def test_an_engine_that_refuses_an_action_ends_no_game(
    game: Game, shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise EngineError("no more")

    monkeypatch.setattr(game.env, "take", refuse)
    assert game.handle("left")
    assert shown[-1] == "[no more]"
