"""Every loop with servers for its players: the same wherever it is killed, or refused at once."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eto_gym.cli import train
from eto_gym.errors import EtoGymError, MissingDependencyError
from eto_gym.testing.fake_endpoint import FakeEndpoint
from eto_gym.trainers.data.experience import QUESTION
from eto_gym.trainers.loops.stage_data import TRAJECTORIES
from eto_gym.trainers.loops.step_stage import BRANCHES, VALUES
from eto_gym.trainers.settings import loops
from eto_gym.trajectories import TrajectoryStore
from tests.agents.serving.test_serving import alive, folders, until  # noqa: F401
from tests.toy import CORRIDOR
from tests.trainers.loops.moments import Moment, watched
from tests.trainers.loops.small_runs import assert_same, run, short
from tests.trainers.loops.test_every_loop import small
from tests.trainers.loops.test_players import (
    EXPLORE,
    model_stage,
    own_server,
    play_in,
    said,
    stored,
)
from tests.trainers.processes import descendants, die, fork_one

pytest.importorskip("torch")
pytest.importorskip("openai")

pytestmark = pytest.mark.usefixtures("own_temporary_folder")

SERVERS = 2


def takes_servers(method: str) -> bool:
    """Whether a method's settings let its stages play behind servers."""
    try:
        getattr(loops, train.LOOPS[method].settings)(play="serve")
    except EtoGymError:
        return False
    return True


PLAY_ASIDE = [method for method in train.LOOPS if takes_servers(method)]
"""Methods whose stages play behind servers; the others play inside their training."""


def settings(method: str, env: str = CORRIDOR, **changes: Any) -> Any:
    """Return small settings of a method, in which every training leaves several checkpoints."""
    whole = small(method, env)
    if method == "early-experience":
        changes["experience"] = dataclasses.replace(whole.experience, source="start")
    return short(whole, **changes)


def served(method: str, env: str, log: Path) -> Any:
    return settings(method, env, play_command=own_server(log), servers=SERVERS)


def processes_of(log: Path) -> list[int]:
    """Return the servers that write to a log, and what watches them."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:  # no process, or gone by now
            continue
        if folder.name.isdecimal() and os.fsencode(log) in words:
            found.append(int(folder.name))
    return found


# --- each method plays there, or refuses ----------------------------------------------------------


@pytest.fixture(scope="module")
def endpoint() -> Iterator[FakeEndpoint]:
    with FakeEndpoint(models=["policy"]) as fake:
        yield fake


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run folder for all methods: they share the stages that are the same."""
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize("method", PLAY_ASIDE)
def test_what_plays_aside_plays_behind_servers(
    method: str, endpoint: FakeEndpoint, folder: Path
) -> None:
    """Nothing that the model of a stage says is what a model of random weights would say."""
    told = folder / "told"
    report = run(
        method,
        settings(
            method,
            play=f"endpoint:{endpoint.url}",
            play_model="policy",
            play_hook=f"sh -c 'echo $1 >> {told}' hook {{name}} {{model}}",
        ),
        folder / "run",
    )
    assert report["policies"]
    assert not any(row["errors"] for row in report["policies"])
    assert told.read_text().split(), "the hook has run"
    scored = {stage["name"] for stage in report["stages"] if stage["name"].startswith("eval-")}
    played, experts = _said(folder / "run")
    assert scored <= set(played)
    for name, texts in played.items():
        assert texts - experts <= COINS, f"a local model has played {name}"


COINS = {"Action: open", "Action: go"}
"""All that the fake endpoint says."""


def _said(run: Path) -> tuple[dict[str, set[str]], set[str]]:
    """Return what the model of each stage said that plays, and what experts did.

    An episode that goes on from an expert's has the expert's words in it.
    """
    played: dict[str, set[str]] = {}
    experts: set[str] = set()
    for stage in (run / "stages").iterdir():
        name = stage.name.rsplit("-", 1)[0]
        files = [stage / file for file in (TRAJECTORIES, BRANCHES, VALUES)]
        for t in (t for file in files if file.exists() for t in TrajectoryStore(file).load()):
            said = {message.content for message in t.messages if message.train}
            if t.messages[-2].content == QUESTION:  # trained on is what the action led to
                said = {t.messages[-3].content}
            if t.policy == name:
                played.setdefault(name, set()).update(said)
            elif t.policy == "expert":
                experts |= said
    return played, experts


WAYS = {
    "serve": ["--play", "serve"],
    "command": ["--play-command", "true {model} {host} {port}"],
    "endpoint": ["--play", "endpoint:http://127.0.0.1:1"],
}
"""How the command line is told to play elsewhere."""


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", train.LOOPS)
def test_a_dry_run_tells_whether_servers_can_play(
    method: str, way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("fastapi", "uvicorn"):
        pytest.importorskip(package)
    words = [method, "--env", CORRIDOR, "--out", str(tmp_path / "run"), *WAYS[way]]
    words += ["--prompt-style", "none", "--data", ""]
    if method in PLAY_ASIDE:
        assert train.main([*words, "--dry-run"]) == 0
        assert "play" in capsys.readouterr().out
        return
    for dry in (["--dry-run"], []):
        with pytest.raises(EtoGymError, match="the model in training plays itself") as told:
            train.main([*words, *dry])
        assert "\n" not in str(told.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--play-command", "/no/vllm serve {model} {host} {port}"], "play_command .*'/no/vllm'"),
        (["--play", "endpoint:h", "--play-hook", "no-such-hook {model}"], "play_hook .*'no-such-"),
    ],
)
def test_a_program_that_is_not_there_is_told_before_anything_runs(
    words: list[str], error: str, tmp_path: Path
) -> None:
    words = ["eto", "--env", CORRIDOR, "--data", "", "--out", str(tmp_path / "run"), *words]
    for dry in (["--dry-run"], []):
        with pytest.raises(EtoGymError, match=error) as told:
            train.main([*words, *dry])
        assert "\n" not in str(told.value)
    assert not list(tmp_path.rglob("stages/*"))


@pytest.mark.parametrize("words", [WAYS["serve"], WAYS["endpoint"]])
def test_a_package_that_is_missing_is_told_before_anything_runs(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingDependencyError, match=r"'openai'.*pip install"):
        train.main(["eto", "--env", CORRIDOR, "--data", "", *words, "--dry-run"])


# --- kill -9 --------------------------------------------------------------------------------------


def _run_until(method: str, env: str, folder: Path, victim: Moment | None) -> None:
    """Run until a moment, write down what has been started, and be killed."""

    def see(moment: Moment) -> None:
        if moment == victim:
            (folder / "pids").write_text(json.dumps(descendants(os.getpid())))
            die()

    with watched(see):
        run(method, served(method, env, folder / "log"), folder / "run")


def _kill_and_go_on(
    method: str, env: str, victims: Callable[[dict[Moment, int]], Iterable[Moment]], path: Path
) -> dict[Moment, int]:
    """Run whole, and killed at some moments one after the other: the files must be the same.

    Args:
        method: The loop.
        env: The environment.
        victims: Chooses among the moments of the whole run.
        path: Where both run.

    Returns:
        The moments of the whole run, in order, each with the number of processes of servers.
    """
    whole, killed = path / "whole", path / "killed"
    whole.mkdir()
    killed.mkdir()
    moments: dict[Moment, int] = {}
    log = whole / "log"
    # In this process, so that its copies have imported what they need.
    with watched(lambda moment: moments.setdefault(moment, len(processes_of(log)))):
        run(method, served(method, env, log), whole / "run")
    stages = {path.name.rsplit("-", 1)[0] for path in whole.glob("run/stages/*")}
    assert stages == {m.stage for m in moments if m.what == "begun"}
    for victim in victims(moments):
        assert fork_one(_run_until, method, env, killed, victim) == -signal.SIGKILL, victim
        pids = json.loads((killed / "pids").read_text())
        assert until(functools.partial(_gone, pids, killed / "log"), seconds=60), victim
    assert fork_one(_run_until, method, env, killed, None) == 0
    assert not processes_of(killed / "log")
    assert_same(whole / "run", killed / "run")
    return moments


def _gone(pids: list[int], log: Path) -> bool:
    """Whether none is left of what a run has started: servers, their watchers, Java."""
    return not any(map(alive, pids)) and not processes_of(log)


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="processes are read in /proc"
)


@needs_proc
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("method", PLAY_ASIDE)
def test_kill_9_at_every_moment_of_a_loop(method: str, tmp_path: Path) -> None:
    """Killed in each stage, as it begins, serves, plays, trains and ends, a run ends the same."""
    moments = _kill_and_go_on(method, CORRIDOR, list, tmp_path)
    assert {m.what for m in moments} == {"begun", "served", "stored", "checkpoint", "finished"}
    _assert_servers_only_play(moments)


def _last_in_each_stage(moments: dict[Moment, int]) -> list[Moment]:
    """Return the last moment of every stage before it is finished."""
    return list({moment.stage: moment for moment in moments if moment.what != "finished"}.values())


@needs_proc
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("env", ["alfworld", "webshop", "scienceworld"])
def test_kill_9_in_every_stage_on_a_benchmark(env: str, tmp_path: Path) -> None:
    """As it begins, with its first episode stored, or in training: what has a JVM has none left."""
    moments = _kill_and_go_on("eto", env, _last_in_each_stage, tmp_path)
    assert {m.what for m in _last_in_each_stage(moments)} == {"begun", "stored", "checkpoint"}
    _assert_servers_only_play(moments)


def _explore_and_die(folder: Path, adapter: Path) -> None:
    def see(moment: Moment) -> None:
        if moment == Moment("explore-1", "stored"):
            (folder / "pids").write_text(json.dumps(descendants(os.getpid())))
            die()

    with watched(see):
        _explore(folder / "run", adapter)


def _explore(folder: Path, adapter: Path) -> list[Any]:
    options = {"play": "serve", "play_arguments": "--device cpu", "play_timeout": 250.0}
    play = play_in(folder, **options, slots=2)
    stage = play.explore("explore-1", model_stage(play, adapter), EXPLORE, tasks=4)
    return said(stored(stage))


@pytest.mark.slow
@pytest.mark.timeout(900)
@needs_proc
def test_kill_9_leaves_no_transformers_serve(
    folders: tuple[Path, Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    for package in ("fastapi", "uvicorn"):
        pytest.importorskip(package)
    assert fork_one(_explore_and_die, tmp_path, folders[1]) == -signal.SIGKILL
    pids = json.loads((tmp_path / "pids").read_text())
    assert len(pids) >= 2, "the server and its watcher"
    assert until(lambda: not any(map(alive, pids)))
    (path,) = tmp_path.glob(f"run/stages/explore-1-*/{TRAJECTORIES}")
    kept = said(TrajectoryStore(path).load())
    assert 0 < len(kept) < 4
    whole = _explore(tmp_path / "run", folders[1])
    assert all(episode in whole for episode in kept), "what was stored was not played again"
    local = play_in(tmp_path / "local")
    stage = local.explore("explore-1", model_stage(local, folders[1]), EXPLORE, tasks=4)
    assert whole == said(stored(stage))


def _assert_servers_only_play(moments: dict[Moment, int]) -> None:
    """Check that there are servers while a model plays, and none while one is trained."""
    ours = {m.stage for m in moments if m.what == "served"}
    for moment, count in moments.items():
        plays = moment.stage in ours and moment.what in ("served", "stored")
        assert (count > 0) == plays, (moment, count)
