"""Explorations that are played while a model is trained: the same as one after the other."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from eto_gym.errors import EtoGymError
from eto_gym.registration import resolve_env_id
from eto_gym.testing.fake_endpoint import FakeEndpoint, coin
from eto_gym.trainers.loops.rounds import Rounds
from eto_gym.trainers.loops.run_folder import FINISHED
from eto_gym.trainers.loops.stage_data import TRAJECTORIES
from eto_gym.trainers.loops.step_stage import BRANCHES
from eto_gym.trainers.settings.loops import (
    EarlyExperienceSettings,
    ETOSettings,
    GroupLoopSettings,
    MixtureLoopSettings,
    RFTSettings,
    SelfPlaySettings,
    StepDPOSettings,
)
from eto_gym.trajectories import PlayedTrajectory, Trajectory, TrajectoryStore
from tests.agents.serving.test_serving import alive, until
from tests.toy import CORRIDOR
from tests.trainers.loops.moments import Moment, watched
from tests.trainers.loops.small_runs import assert_same, run, short
from tests.trainers.loops.test_every_loop import SMALL, small
from tests.trainers.loops.test_kept_servers import KEPT, swaps
from tests.trainers.loops.test_players import own_server, started
from tests.trainers.processes import descendants, die, fork, fork_one

pytest.importorskip("torch")
pytest.importorskip("openai")

pytestmark = pytest.mark.usefixtures("own_temporary_folder")

OTHERS = ("rft", "self-play", "step-dpo", "mixture", "hpl")


class Following(FakeEndpoint):
    """Says what depends on the model that it was told of last.

    Attributes:
        told: Where the hook writes.
        refuses: Whether it has a reply for nobody.
    """

    told: Path
    refuses = False

    def hook(self) -> str:
        return f"sh -c 'echo $1 > {self.told}' hook {{model}}"


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[Following]:
    def answer(body: dict[str, Any]) -> str:
        made_by = Path(fake.told.read_text().strip()).parent.name  # the stage
        return coin({**body, "messages": [made_by, *body["messages"]]})

    def choose(_: dict[str, Any]) -> str | None:
        return "refused" if fake.refuses else None

    fake = Following(models=["policy"], answer=answer, choose=choose, keep=False)
    fake.told = tmp_path / "told"
    with fake:
        yield fake


def behind(endpoint: Following) -> dict[str, Any]:
    """Return settings with which the endpoint plays, and plays ahead."""
    return {
        "play": f"endpoint:{endpoint.url}", "play_model": "policy", "play_hook": endpoint.hook(),
        "play_ahead": True,
    }  # fmt: skip


def settings(method: str, model: Path, **changes: Any) -> Any:
    """Return small settings of a method, with two rounds of sampled explorations."""
    whole = small(method, changes.pop("env", CORRIDOR))
    sampled = {} if method == "step-dpo" else {"explore_temperature": 1.0, "explore_samples": 6}
    small_model = {"model": str(model), "max_context": 500, "max_steps": 4}
    return short(whole, **{"iterations": 2, **sampled, **small_model, **changes})


@contextlib.contextmanager
def one_after_the_other() -> Iterator[None]:
    """Let the rounds follow the same plan, and play nothing while a model is trained."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rounds, "_exploring", lambda *_: contextlib.nullcontext())
        yield


@contextlib.contextmanager
def stages_played_here() -> Iterator[set[str]]:
    """Yield the names of the stages of which this process has stored episodes."""
    names: set[str] = set()
    add = TrajectoryStore.add

    def noted(self: TrajectoryStore, trajectory: PlayedTrajectory) -> None:
        if not self.path.name.startswith("."):
            names.add(self.path.parent.name.rsplit("-", 1)[0])
        add(self, trajectory)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrajectoryStore, "add", noted)
        yield names


def stage(folder: Path, name: str) -> Path:
    (found,) = folder.glob(f"stages/{name}-????????????")
    return found


def played(folder: Path, name: str, file: str = TRAJECTORIES) -> list[Trajectory]:
    return TrajectoryStore(stage(folder, name) / file).load(strict=True)


# --- the same as one after the other --------------------------------------------------------------


@pytest.mark.parametrize(
    "method", ["eto", *(pytest.param(method, marks=pytest.mark.slow) for method in OTHERS)]
)
def test_what_is_played_ahead_is_what_would_be_played_later(
    method: str, endpoint: Following, tiny: Path, tmp_path: Path
) -> None:
    """Every file of the run, weights included, is that of the same rounds in sequence."""
    given = settings(method, tiny, **behind(endpoint))
    at_once, in_turn = tmp_path / "at-once", tmp_path / "in-turn"
    with stages_played_here() as here:
        report = run(method, given, at_once)
    with one_after_the_other(), stages_played_here() as later:
        run(method, given, in_turn)
    assert not report["ended"]
    assert_same(at_once, in_turn)
    ahead = {x["name"] for x in report["stages"] if "player" in (x["result"] or {})}
    assert ahead
    assert not here & ahead, "another process has played these"
    assert ahead <= later
    assert not any(x["reused"] for x in report["stages"])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("env", ["alfworld", "webshop", "scienceworld"])
def test_every_benchmark_is_played_ahead(env: str, endpoint: Following, tmp_path: Path) -> None:
    sizes = {"env": env, "max_context": 8192, "max_steps": SMALL["max_steps"]}
    given = settings("eto", Path("tiny"), **sizes, explore_samples=2, **behind(endpoint))
    with contextlib.closing(gym.make(resolve_env_id(env))) as engine:
        engine.reset(seed=0)  # keeps what it runs, such as a JVM, from one stage to the next
        report = run("eto", given, tmp_path / "at-once")
        assert not report["ended"]
        with one_after_the_other():
            run("eto", given, tmp_path / "in-turn")
    assert_same(tmp_path / "at-once", tmp_path / "in-turn")
    later = played(tmp_path / "at-once", "explore-2")
    assert later
    assert {t.player["staleness"] for t in later} == {1}


# --- what is recorded -----------------------------------------------------------------------------


def test_episodes_and_reports_say_which_model_played(
    endpoint: Following, tiny: Path, tmp_path: Path
) -> None:
    given = settings("eto", tiny, **behind(endpoint), iterations=3)
    report = run("eto", given, tmp_path / "run")
    sft, first = (stage(tmp_path / "run", name).name for name in ("sft", "eto-1"))
    assert [{json.dumps(t.player) for t in played(tmp_path / "run", f"explore-{i}")}
            for i in (1, 2, 3)] == [
        {"{}"},
        {json.dumps({"model": sft, "staleness": 1})},
        {json.dumps({"model": first, "staleness": 1})},
    ]  # fmt: skip
    seeds = [{t.seed for t in played(tmp_path / "run", f"explore-{i}")} for i in (1, 2, 3)]
    assert not seeds[0] & seeds[1], "the same model plays: the same seeds would say the same"
    assert len(set().union(*seeds)) == sum(map(len, seeds))
    behind_by = {row["policy"]: row["card"].get("staleness") for row in report["policies"]}
    assert {name: count for name, count in behind_by.items() if count} == {
        "ETO, iteration 2": 1,
        "ETO, iteration 3": 1,
    }
    words = (tmp_path / "run" / "report.md").read_text()
    assert f"(one training behind): explore-2 by {sft}, explore-3 by {first}.\n" in words


@pytest.mark.slow
def test_steps_that_are_tried_say_so_too(endpoint: Following, tiny: Path, tmp_path: Path) -> None:
    run("step-dpo", settings("step-dpo", tiny, **behind(endpoint)), tmp_path / "run")
    sft = stage(tmp_path / "run", "sft").name
    assert all(not t.player for t in played(tmp_path / "run", "steps-1", BRANCHES))
    later = played(tmp_path / "run", "steps-2", BRANCHES)
    assert {json.dumps(t.player) for t in later} == {json.dumps({"model": sft, "staleness": 1})}


def test_only_what_is_stale_is_another_stage(
    endpoint: Following, tiny: Path, tmp_path: Path
) -> None:
    """What was done without it is done: the first round, and what goes before it."""
    given = settings("eto", tiny, **behind(endpoint))
    run("eto", dataclasses.replace(given, play_ahead=False), tmp_path / "run")
    before = {path.name for path in tmp_path.glob("run/stages/*")}
    report = run("eto", given, tmp_path / "run")
    anew = {x["name"] for x in report["stages"] if f"{x['name']}-{x['key']}" not in before}
    assert anew == {"explore-2", "pairs-2", "eto-2", "eval-eto-2"}


# --- what is killed, and what fails ---------------------------------------------------------------


def served(model: Path, log: Path, **changes: Any) -> Any:
    return settings("eto", model, play_command=own_server(log, 0.02), play_ahead=True, **changes)


def _run_until(model: Path, folder: Path, victim: Moment | None, during: bool) -> None:
    """Run until a moment, and be killed.

    Args:
        model: What training starts from.
        folder: Holds the run, and where servers write.
        victim: The moment; None: to the end.
        during: Wait there until something of the exploration that is played meanwhile is stored.
    """

    def see(moment: Moment) -> None:
        if moment == victim:
            if during:
                assert until(lambda: _stored(folder / "run", "explore-2") > 0, seconds=120)
            (folder / "pids").write_text(json.dumps(descendants(os.getpid())))
            die()

    with watched(see):
        run("eto", served(model, folder / "log"), folder / "run")


def _gone(pids: list[int]) -> bool:
    return not any(map(alive, pids))


def _stored(folder: Path, name: str) -> int:
    paths = folder.glob(f"stages/{name}-*/{TRAJECTORIES}")
    return sum(len(path.read_bytes().splitlines()) for path in paths)


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="processes are read in /proc"
)


@needs_proc
@pytest.mark.timeout(600)
def test_kill_9_while_both_are_at_work_leaves_nothing_and_the_run_goes_on(
    tiny: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    run("eto", served(tiny, whole / "log"), whole / "run")
    moment = Moment("eto-1", "checkpoint")
    assert fork_one(_run_until, tiny, killed, moment, True) == -signal.SIGKILL
    pids = json.loads((killed / "pids").read_text())
    assert len(pids) >= 3, "the process that explores, a server and its watcher"
    assert until(functools.partial(_gone, pids), seconds=60)
    assert not list(killed.glob(f"run/stages/eto-1-*/{FINISHED}"))
    kept = _stored(killed / "run", "explore-2")
    assert kept > 0
    assert fork_one(_run_until, tiny, killed, None, True) == 0
    assert_same(whole / "run", killed / "run")


@needs_proc
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kill_9_at_every_moment_of_a_training_and_after_it(tiny: Path, tmp_path: Path) -> None:
    """The process that explores is at work while one is trained, or what it did is taken up."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    moments: dict[Moment, None] = {}
    with watched(lambda moment: moments.setdefault(moment, None)):
        run("eto", served(tiny, whole / "log"), whole / "run")
    victims = [moment for moment in moments if moment.stage in ("eto-1", "pairs-2", "eto-2")]
    assert {(m.stage, m.what) for m in victims} >= {
        ("eto-1", what) for what in ("begun", "checkpoint", "finished")
    }
    for victim in victims:
        assert fork_one(_run_until, tiny, killed, victim, False) == -signal.SIGKILL, victim
        pids = json.loads((killed / "pids").read_text())
        assert until(functools.partial(_gone, pids), seconds=60), victim
    assert fork_one(_run_until, tiny, killed, None, False) == 0
    assert_same(whole / "run", killed / "run")


@pytest.mark.slow
@needs_proc
def test_the_process_that_explores_is_killed_and_the_training_is_kept(
    tiny: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"

    def kill(moment: Moment) -> None:
        if moment == Moment("eto-1", "begun"):
            assert until(lambda: _stored(tmp_path / "run", "explore-2") > 0, seconds=120)
            (explorer,) = [pid for pid in descendants(os.getpid()) if _explores(pid)]
            os.kill(explorer, signal.SIGKILL)

    with (
        watched(kill),
        pytest.raises(EtoGymError, match=r"exit code -9.*start the same command again"),
    ):
        run("eto", served(tiny, log), tmp_path / "run")
    assert (stage(tmp_path / "run", "eto-1") / FINISHED).exists()
    assert not any(alive(pid) for pid, *_ in started(log))
    report = run("eto", served(tiny, log), tmp_path / "run")
    assert {x["name"]: x["reused"] for x in report["stages"]}["eto-1"]
    run("eto", served(tiny, tmp_path / "other"), tmp_path / "whole")
    assert_same(tmp_path / "whole", tmp_path / "run")


def _explores(pid: int) -> bool:
    words = Path(f"/proc/{pid}/cmdline").read_bytes()
    return b"spawn_main" in words


def test_servers_that_fail_meanwhile_are_told_of_when_the_training_is_done(
    endpoint: Following, tiny: Path, tmp_path: Path
) -> None:
    given = settings("eto", tiny, **behind(endpoint))

    def refuse(moment: Moment) -> None:
        if moment == Moment("explore-1", "finished"):
            endpoint.refuses = True

    with (
        watched(refuse),
        pytest.raises(EtoGymError, match=r"during training failed: .*start the same command"),
    ):
        run("eto", given, tmp_path / "run")
    assert (stage(tmp_path / "run", "eto-1") / FINISHED).exists()
    endpoint.refuses = False
    run("eto", given, tmp_path / "run")
    with one_after_the_other():
        run("eto", given, tmp_path / "whole")
    assert_same(tmp_path / "whole", tmp_path / "run")


# --- with servers that stay, and with several processes -------------------------------------------


@pytest.mark.slow
def test_servers_that_stay_take_the_adapter_that_plays_ahead(tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    whole = served(tiny, tmp_path / "log", **KEPT)
    lora = {
        name: dataclasses.replace(getattr(whole, name), lora_r=2, optimizer="adamw")
        for name in ("sft", "dpo")
    }
    run("eto", dataclasses.replace(whole, **lora), tmp_path / "run")
    assert len(started(tmp_path / "log")) == 2, "one start of each"
    pid = started(tmp_path / "log")[0][0]
    told = [(what, name) for whose, what, name in swaps(tmp_path / "log") if whose == pid]
    assert [name for what, name in told if what == "load"] == [
        "eval-sft", "explore-1", "ahead-2", "eval-eto-1", "eval-eto-2", "eval-control",
    ]  # fmt: skip


def _run_in_two(model: str, port: str, told: str, folder: str) -> None:
    fake = Following(port=int(port))
    fake.told = Path(told)
    run("eto", settings("eto", Path(model), **behind(fake)), Path(folder))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_first_of_two_processes_has_all_of_it_played(
    endpoint: Following, tiny: Path, tmp_path: Path
) -> None:
    pytest.importorskip("accelerate")
    run("eto", settings("eto", tiny, **behind(endpoint)), tmp_path / "alone")
    told = str(endpoint.told)
    fork(_run_in_two, str(tiny), str(endpoint.port), told, str(tmp_path / "two"))
    for name in ("explore-1", "explore-2"):
        assert played(tmp_path / "two", name) == played(tmp_path / "alone", name)


# --- what is refused ------------------------------------------------------------------------------

SERVED: dict[str, Any] = {"play": "endpoint:h", "play_ahead": True}


@pytest.mark.parametrize(
    ("kind", "wrong", "words"),
    [
        (ETOSettings, {"iterations": 1}, "expected iterations >= 2, got 1"),
        (SelfPlaySettings, {"phases": "eto"}, "expected iterations >= 2, got 1"),
        (StepDPOSettings, {}, "expected iterations >= 2, got 1"),
        (ETOSettings, {"iterations": 2, "play": "local"}, "got play 'local'"),
        (ETOSettings, {"iterations": 2, "launcher": "ray"}, "got .*launcher 'ray'"),
        (ETOSettings, {"iterations": 2}, "expected explore_temperature > 0, got 0"),
        (MixtureLoopSettings, {"iterations": 2}, "expected explore_temperature > 0, got 0"),
        (EarlyExperienceSettings, {}, "early-experience does not"),
        (GroupLoopSettings, {}, "explore and train in turn; grpo does not"),
    ],
)
def test_what_cannot_work_is_one_clear_line(kind: Any, wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(EtoGymError, match=words) as told:
        kind(**{**SERVED, **wrong})
    assert "\n" not in str(told.value)


def test_it_is_off_unless_asked_for() -> None:
    assert not RFTSettings(iterations=2).play_ahead
    assert RFTSettings(iterations=2, **SERVED).play_ahead
    assert SelfPlaySettings(**SERVED).rounds == 2, "each phase has an exploration of its own"
