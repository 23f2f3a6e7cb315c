"""`eto-gym rollout` and `eto-gym eval`."""

from __future__ import annotations

import argparse
import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from eto_gym.agents.policies import endpoint_policy
from eto_gym.cli.arguments import add_playing_arguments
from eto_gym.cli.main import main
from eto_gym.cli.playing import read_policy, settings_file
from eto_gym.env import TextEnv
from eto_gym.trajectories import TrajectoryStore
from tests.toy import CORRIDOR, CorridorEnv

Capture = pytest.CaptureFixture[str]


def run(command: str, *options: Any, policy: str = "random") -> int:
    chosen = ["--policy", policy] if policy else []
    return main([command, CORRIDOR, *chosen, *map(str, options)])


def error_of(capsys: Capture, command: str, *options: Any, policy: str = "random") -> str:
    capsys.readouterr()
    assert run(command, *options, policy=policy) == 2
    return capsys.readouterr().err


def test_rollout_plays_resumes_and_refuses_another_run(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "r.jsonl"
    assert run("rollout", "--limit", 5, "--samples", 2, "--out", out) == 0
    assert "all: 10 episodes" in capsys.readouterr().out
    assert run("rollout", "--samples", 2, "--out", out, "--slots", 3) == 0
    stored = TrajectoryStore(out).load(strict=True)
    assert len(stored) == len({t.key for t in stored}) == 48, "resumed, and nothing twice"
    assert {t.policy for t in stored} == {"random"}
    assert json.loads(settings_file(out).read_text())["policy"] == "random"
    told = error_of(capsys, "rollout", "--out", out, "--seed", 1)
    assert "belongs to another run (seed 0 there, 1 here)" in told
    settings_file(out).unlink()
    assert "is missing: choose another --out" in error_of(capsys, "rollout", "--out", out)


def test_shards_are_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for shard in ("0/3", "1/3", "2/3"):
        assert run("rollout", "--shard", shard) == 0
    files = sorted(Path("runs/rollout").glob("*.jsonl"))
    assert len(files) == 3, [file.name for file in files]
    assert main(["eval", "--from", *map(str, files), "--json", "all.json"]) == 0
    sharded = json.loads(Path("all.json").read_text())
    assert run("eval", "--json", "one.json") == 0
    whole = json.loads(Path("one.json").read_text())
    assert sharded["overall"] == whole["overall"]
    assert whole["overall"]["tasks"] == 24
    apart = [word for file in files for word in ("--from", str(file))]
    assert main(["eval", *apart, "--from", str(files[0]), "--json", "apart.json"]) == 0
    assert json.loads(Path("apart.json").read_text())["overall"] == whole["overall"]


@pytest.mark.parametrize(
    "option",
    [
        *("--limit 2", "--split test", "--shard 0/2", "--seed 3", "--env-arg foo=1", "--slots 3"),
        *(
            "--history last:2",
            "--workers 2",
            "--out x.jsonl",
            "--task door-1/5",
            "--prompt-style none",
        ),
    ],
)
def test_what_says_how_to_play_is_refused_where_nothing_is_played(
    option: str, tmp_path: Path, capsys: Capture
) -> None:
    file = tmp_path / "a.jsonl"
    assert main(["eval", "--from", str(file), *option.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"leave out {option.split()[0]}" in line
    assert main(["eval", "--from", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err


def test_an_episode_that_files_hold_twice_is_named(tmp_path: Path, capsys: Capture) -> None:
    first, second, both = (tmp_path / f"{name}.jsonl" for name in ("a", "b", "both"))
    options = ("--task", "door-1/5", "--out")
    assert run("rollout", *options, first) == 0
    assert run("rollout", *options, second, policy="expert") == 0
    both.write_bytes(first.read_bytes() + second.read_bytes())
    again = tmp_path / "again.jsonl"
    again.write_bytes(first.read_bytes() * 2)
    for files, told in (
        ([first, second], f"both {first} and {second} hold"),
        ([both], f"{both} holds twice"),
    ):
        capsys.readouterr()
        assert main(["eval", "--from", *map(str, files)]) == 2
        err = capsys.readouterr().err
        assert told in err
        assert "'door-1/5', sample 0 (of the policies 'random' and " in err
        assert err.count("\n") == 1
    assert main(["eval", "--from", str(again)]) == 0, "a retry takes the place of what it repeats"


def test_tasks_are_chosen_by_id_file_type_and_number(tmp_path: Path) -> None:
    names = tmp_path / "tasks.txt"
    names.write_text("door-1/5\n\ndoor-2/6\n", encoding="utf-8")
    out = tmp_path / "a.jsonl"
    assert run("rollout", "--task", "door-3/7", "--task-file", names, "--out", out) == 0
    assert [t.task_id for t in TrajectoryStore(out).load()] == ["door-3/7", "door-1/5", "door-2/6"]
    out = tmp_path / "b.jsonl"
    options = ("--task-type", "door-2", "--shuffle-seed", 1, "--limit", 2, "--out", out)
    assert run("rollout", *options, policy="expert") == 0
    assert [t.task_type for t in TrajectoryStore(out).load()] == ["door-2"] * 2


@pytest.mark.parametrize(
    ("options", "policy", "told"),
    [
        (["--task", "door-9"], "random", "Did you mean"),
        (["--task-file", "/no/such/file"], "random", "there is no file"),
        (["--shard", "3/3"], "random", "expected --shard I/N"),
        (["--samples", "0"], "random", "expected --samples >= 1"),
        (["--step-timeout", "-1"], "random", "expected --step-timeout > 0"),
        (["--env-workers", "-1"], "random", "expected --env-workers >= 0"),
        (["--env-workers", "1"], "expert", "which env_workers puts into other processes"),
        (["--temperature", "1"], "expert", "takes no temperature"),
        ([], "exprt", "Did you mean 'expert'?"),
        (["--launcher", "rai"], "random", "expected launcher"),
        ([], "", "--policy is missing"),
    ],
)
def test_mistakes_are_told(
    tmp_path: Path, capsys: Capture, options: list[str], policy: str, told: str
) -> None:
    err = error_of(capsys, "rollout", "--out", tmp_path / "r.jsonl", *options, policy=policy)
    assert told in err
    assert "Traceback" not in err


def test_an_endpoint_is_named_with_its_servers() -> None:
    parser = argparse.ArgumentParser()
    add_playing_arguments(parser)
    words = ["--policy", "endpoint:http://a/v1,http://b/v1", "--temperature", "0.5"]
    args = parser.parse_args([*words, "--policy-arg", "model=m"])
    make_policy, about = read_policy(args)
    assert isinstance(make_policy, functools.partial)
    assert make_policy.func is endpoint_policy
    assert make_policy.args == ("http://a/v1,http://b/v1",)
    assert make_policy.keywords == {"model": "m", "temperature": 0.5}
    assert about["policy"] == "endpoint:http://a/v1,http://b/v1"


def test_a_file_has_one_writer(tmp_path: Path, capsys: Capture) -> None:
    import fcntl

    out = tmp_path / "r.jsonl"
    with out.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "another run is writing" in error_of(capsys, "rollout", "--out", out)
    assert run("rollout", "--out", out) == 0


def test_eval_reports_best_of_and_a_comparison(tmp_path: Path, capsys: Capture) -> None:
    first, second = tmp_path / "r.jsonl", tmp_path / "e.jsonl"
    assert run("eval", "--best-of", 4, "--out", first) == 0
    said = capsys.readouterr().out
    assert "Best of 4 samples, over 24 tasks" in said
    assert "pass@k, unbiased: 1: " in said
    report = json.loads((tmp_path / "r.report.json").read_text())
    assert report["about"]["policy"] == "random"
    assert report["best"]["success"]["mean"] >= report["overall"]["success"]["mean"]
    assert report["best"]["pass_at"]["1"]["mean"] == pytest.approx(
        report["overall"]["success"]["mean"]
    )
    assert run("eval", "--out", second, "--compare", first, policy="expert") == 0
    assert "Against the other on 24 common episodes" in capsys.readouterr().out
    paired = json.loads((tmp_path / "e.report.json").read_text())["paired"]
    assert paired["lost"] == 0
    assert paired["gained"] > 0


def test_eval_of_errors_is_not_a_success(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "r.jsonl"
    store = TrajectoryStore(tmp_path / "other.jsonl")
    monkeypatch.setattr(CorridorEnv, "make_expert", TextEnv.make_expert)
    assert run("eval", "--limit", 2, "--out", out, policy="expert") == 2, "it has no expert"
    assert "has no scripted expert" in capsys.readouterr().err
    assert main(["eval", "--from", str(store.path)]) == 2
    assert "there is no file" in capsys.readouterr().err


def _heed_interrupts() -> None:
    """Undo what a job in the background inherits: to ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_an_interrupt_leaves_a_file_to_go_on_from(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    command = [sys.executable, "-m", "eto_gym.cli.main", "rollout", "tests.cli.slow:Slow-v0"]
    command += ["--policy", "random", "--out", str(out), "--slots", "2"]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
        preexec_fn=_heed_interrupts,
    )
    deadline = time.monotonic() + 60
    while not (out.exists() and out.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 130, err
    kept = len(TrajectoryStore(out).load(strict=True))
    assert 0 < kept < 24
    assert f"interrupted. {out} holds {kept} of 24 episodes; the same command goes on" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("command", ["rollout", "eval"])
def test_a_folder_is_no_file_for_episodes(command: str, tmp_path: Path, capsys: Capture) -> None:
    assert f"{tmp_path} is a folder" in error_of(capsys, command, "--out", tmp_path)
    assert not any(tmp_path.iterdir())
