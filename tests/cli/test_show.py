"""`eto-gym show` prints episodes, and nothing that a model wrote steers the terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from eto_gym.cli.main import main
from eto_gym.prompt import Message
from eto_gym.trajectories import Step, Trajectory, TrajectoryStore


@pytest.fixture
def file(tmp_path: Path) -> Path:
    with TrajectoryStore(tmp_path / "t.jsonl") as store:
        for number, success in enumerate((True, False, False)):
            store.add(
                Trajectory(
                    task_id=f"task-{number}",
                    task_type="coin",
                    messages=(
                        Message("user", "Instruction"),
                        Message("assistant", "OK"),
                        Message("user", "You see a coin."),
                        Message("assistant", "Thought: \x1b[2J\nAction: take", True),
                    ),
                    steps=(Step("take", "Taken.", 1.0 if success else 0.0),),
                    outcome="terminated",
                    reward=float(success),
                    success=success,
                )
            )
    return tmp_path / "t.jsonl"


def test_a_record_that_was_changed_since_it_was_written_is_told_of(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(file.read_text().replace('"reward":0.0', '"reward":0.5', 1))
    assert main(["show", str(file), "--list"]) == 0
    assert "changed since it was written" in capsys.readouterr().err


def test_an_episode_is_printed_with_its_actions_and_rewards(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "[episode 1 of 3" in shown
    assert "Action: take\n[action: take; reward 1]" in shown
    assert "OK\n[action" not in shown  # the acknowledgement is no step
    assert "Taken." in shown
    assert "\x1b" not in shown


def test_episodes_are_listed_and_chosen(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(file), "--failed", "--list"]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == [
        "task-1",
        "task-2",
    ]
    assert main(["show", str(file), "--task", "task-2"]) == 0
    assert "task-2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [(["4"], "expected an episode in 1..3, got 4"), (["--task", "x"], "none that was chosen")],
)
def test_a_wrong_choice_gets_one_line(
    file: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(file), *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", ["eval --from FILE", "eval --from FILE FILE2", "compare FILE"])
def test_names_of_others_do_not_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    bad = "\x1b[2J\x9b\ud800\x07"
    for name in ("FILE", "FILE2"):
        with TrajectoryStore(tmp_path / f"{name}{bad[:1]}.jsonl") as store:
            for task in "ab":
                said = (Message("user", "x"), Message("assistant", "Action: y", True))
                store.add(
                    Trajectory(
                        *(f"{task}{bad}", f"kind{task}{bad}", said, (Step("y", "", 0.0),)),
                        *("terminated", 0.0, False),
                        policy=bad,
                        env={"benchmark": bad, "engine": bad, "split": bad},
                    )
                )
    words = [
        str(tmp_path / f"{word}\x1b.jsonl") if word.startswith("FILE") else word
        for word in command.split()
    ]
    main([*words, "--json", str(tmp_path / "out.json")])
    told = capsys.readouterr()
    assert not {c for c in told.out + told.err if not c.isprintable()} - {"\n"}
