"""Servers that are kept from stage to stage: one start, and each stage's adapter in its turn."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eto_gym.errors import EtoGymError
from eto_gym.testing.fake_endpoint import FakeEndpoint
from eto_gym.trainers.loops.eto import ETOLoop
from eto_gym.trainers.loops.play_stages import PlayStages
from eto_gym.trainers.loops.run_folder import Stage
from eto_gym.trainers.loops.stage_data import TRAJECTORIES
from eto_gym.trainers.settings.data import PairingSettings
from eto_gym.trainers.settings.methods import DPOSettings, SFTSettings
from eto_gym.trajectories import PlayedTrajectory, TrajectoryStore
from tests.agents.serving.test_serving import alive, folders, until  # noqa: F401
from tests.trainers.loops.test_players import (
    EXPLORE,
    model_stage,
    own_server,
    play_in,
    said,
    settings,
    started,
    stored,
)
from tests.trainers.processes import descendants, die, fork_one

pytestmark = pytest.mark.usefixtures("own_temporary_folder")

KEPT: dict[str, Any] = {"keep_servers": True, "play_arguments": "--enable-lora", "servers": 2}


@pytest.fixture
def base(folders: tuple[Path, Path]) -> Path:  # noqa: F811
    return folders[0]


@pytest.fixture
def adapter(folders: tuple[Path, Path]) -> Path:  # noqa: F811
    return folders[1]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def play(tmp_path: Path, log: Path) -> Iterator[PlayStages]:
    stages = play_in(tmp_path / "run", play_command=own_server(log), **KEPT)
    yield stages
    stages.close()


def swaps(log: Path) -> list[tuple[int, str, str]]:
    """Return what servers were told: process id, "load" or "unload", and the adapter's name."""
    path = Path(f"{log}.swaps")
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    assert all(status == 200 for *_, status in lines)
    return [
        (pid, url.split("/")[-1].split("_")[0], body["lora_name"]) for pid, url, body, _ in lines
    ]


def copied(adapter: Path, to: Path) -> Path:
    """Return other weights on the same base, as far as a server without a model can tell."""
    to.mkdir()
    for file in adapter.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def stages_of(play: PlayStages, *models: Path) -> list[Stage]:
    return [model_stage(play, model) for model in models]


def test_one_start_serves_the_base_and_every_adapter_on_it(
    base: Path,
    adapter: Path,
    play: PlayStages,
    log: Path,
    tmp_path: Path,
) -> None:
    first, second, third = stages_of(play, base, adapter, copied(adapter, tmp_path / "later"))
    play.evaluate("untrained", "untrained", first)
    pids = [pid for pid, *_ in started(log)]
    assert len(pids) == 2
    assert all(map(alive, pids))
    assert not swaps(log)
    play.evaluate("SFT", "sft", second)
    explored = play.explore("explore-1", third, EXPLORE, tasks=4)
    assert [pid for pid, *_ in started(log)] == pids, "nothing was started anew"
    for pid in pids:
        told = [(what, name) for whose, what, name in swaps(log) if whose == pid]
        assert told == [("load", "eval-sft"), ("unload", "eval-sft"), ("load", "explore-1")]
    assert [t.error for t in stored(explored)] == [None] * 4
    play.close()
    assert not any(map(alive, pids))
    # The same episodes and the same stage as from servers that come and go.
    fresh = play_in(tmp_path / "other", play_command=own_server(log))
    again = fresh.explore("explore-1", stages_of(fresh, tmp_path / "later")[0], EXPLORE, tasks=4)
    assert said(stored(again)) == said(stored(explored))
    assert again.path.name == explored.path.name


def test_other_weights_of_the_same_name_are_loaded_in_place_of_those_before(
    adapter: Path,
    play: PlayStages,
    log: Path,
    tmp_path: Path,
) -> None:
    for stage in stages_of(play, adapter, adapter, copied(adapter, tmp_path / "later")):
        play.evaluate("SFT", "sft", stage)
    one = started(log)[0][0]
    told = [(what, name) for pid, what, name in swaps(log) if pid == one]
    assert told == [("load", "eval-sft"), ("unload", "eval-sft"), ("load", "eval-sft")]


def test_a_server_that_died_meanwhile_takes_the_adapter_when_it_is_back(
    adapter: Path,
    play: PlayStages,
    log: Path,
    tmp_path: Path,
) -> None:
    one, other = stages_of(play, adapter, copied(adapter, tmp_path / "later"))
    play.evaluate("SFT", "sft", one)
    victim = started(log)[0][0]
    os.kill(victim, signal.SIGKILL)
    assert until(lambda: not alive(victim))
    explored = play.explore("explore-1", other, EXPLORE, tasks=4)
    assert [t.error for t in stored(explored)] == [None] * 4
    (anew,) = [pid for pid, *_ in started(log)[2:]]
    assert [(what, name) for pid, what, name in swaps(log) if pid == anew] == [
        ("load", "explore-1")
    ]


def test_a_server_that_dies_within_a_stage_ends_the_run_and_the_stage_goes_on(
    adapter: Path,
    tmp_path: Path,
    log: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone = {**KEPT, "servers": 1, "slots": 1}
    play = play_in(tmp_path / "run", play_command=own_server(log), **alone)
    start = model_stage(play, adapter)
    add = TrajectoryStore.add

    def add_and_kill(self: TrajectoryStore, trajectory: PlayedTrajectory) -> None:
        add(self, trajectory)
        if len(started(log)) == 1:
            os.kill(started(log)[0][0], signal.SIGKILL)

    monkeypatch.setattr(TrajectoryStore, "add", add_and_kill)
    with pytest.raises(EtoGymError, match="no such model"):
        play.explore("explore-1", start, EXPLORE, tasks=4)
    play.close()
    monkeypatch.undo()
    (path,) = tmp_path.glob(f"run/stages/explore-1-*/{TRAJECTORIES}")
    kept = TrajectoryStore(path).load()
    assert 0 < len(kept) < 4
    again = play_in(tmp_path / "run", play_command=own_server(log), **alone)
    after = stored(again.explore("explore-1", model_stage(again, adapter), EXPLORE, tasks=4))
    again.close()
    assert [t.error for t in after] == [None] * 4
    assert all(t in after for t in kept)


def test_whole_models_start_servers_anew(
    base: Path,
    play: PlayStages,
    log: Path,
    tmp_path: Path,
) -> None:
    one, other = stages_of(play, base, copied(base, tmp_path / "trained"))
    play.evaluate("untrained", "untrained", one)
    play.evaluate("SFT", "sft", other)
    assert [served for _, served, *_ in started(log)] == [
        *[str(base)] * 2,
        *[str(tmp_path / "trained")] * 2,
    ]
    assert [alive(pid) for pid, *_ in started(log)] == [False, False, True, True]


def test_a_server_that_takes_no_adapters_is_told_of(
    adapter: Path,
    tmp_path: Path,
    log: Path,
) -> None:
    plain = {**KEPT, "play_arguments": ""}
    play = play_in(tmp_path / "run", play_command=own_server(log), **plain)
    with pytest.raises(EtoGymError, match=r"load_lora_adapter answers 404: .*--enable-lora"):
        play.evaluate("SFT", "sft", model_stage(play, adapter))
    play.close()
    assert not any(alive(pid) for pid, *_ in started(log))


def test_what_cannot_be_kept_is_refused() -> None:
    command = {"play_command": "x {model} {host} {port}", "play_adapter": "{adapter} {name}"}
    with pytest.raises(EtoGymError, match=r"give one of them.*play_hook tells them") as told:
        settings(keep_servers=True, **command)
    assert "\n" not in str(told.value)
    for wrong in ({}, {"play": "endpoint:h"}):
        with pytest.raises(EtoGymError, match="keep_servers is for play serve"):
            settings(keep_servers=True, **wrong)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are read in /proc")
def test_transformers_serve_takes_a_model_after_the_other(
    base: Path,
    adapter: Path,
    tmp_path: Path,
) -> None:
    for package in ("fastapi", "uvicorn"):
        pytest.importorskip(package)
    options = {"play": "serve", "play_arguments": "--device cpu", "play_timeout": 250.0}
    before = set(descendants(os.getpid()))
    play = play_in(tmp_path / "run", **options, keep_servers=True, slots=2)
    local = play_in(tmp_path / "local", slots=2)
    running = []
    for name, model in (("explore-1", base), ("explore-2", adapter), ("explore-3", base)):
        stage = play.explore(name, model_stage(play, model), EXPLORE, tasks=4)
        running.append(sorted(set(descendants(os.getpid())) - before))
        same = local.explore(name, model_stage(local, model), EXPLORE, tasks=4)
        assert said(stored(stage)) == said(stored(same))
        assert stage.path.name == same.path.name
    assert len(running[0]) >= 2, "the server and its watcher"
    assert running == [running[0]] * 3, "one start"
    play.close()
    assert until(lambda: not any(map(alive, running[0])))


def test_a_loop_of_adapters_is_the_same_with_servers_that_stay(
    tiny: Path, tmp_path: Path, log: Path
) -> None:
    pytest.importorskip("peft")
    sizes = {"batch_size": 2, "micro_batch_size": 2, "max_steps": 1, "lora_r": 2}
    short: dict[str, Any] = {"max_length": 512, **sizes}
    values = settings(
        model=str(tiny),
        play_command=own_server(log),
        pairing=PairingSettings(contrast="expert"),
        sft=SFTSettings(**short),
        dpo=DPOSettings(**short),
    )
    kept = ETOLoop(dataclasses.replace(values, **KEPT), tmp_path / "kept").run()
    pids = [pid for pid, *_ in started(log)]
    assert not any(map(alive, pids)), "they end with the run"
    names = ["eval-sft", "explore-1", "eval-eto-1", "eval-control"]
    assert [name for pid, what, name in swaps(log) if what == "load" and pid == pids[-1]] == names
    fresh = ETOLoop(values, tmp_path / "fresh").run()
    assert len(started(log)) == len(pids) + len(names) + 1, "these have started for each stage"
    assert [stage["key"] for stage in kept["stages"]] == [s["key"] for s in fresh["stages"]]
    files = [p.relative_to(tmp_path / "kept") for p in (tmp_path / "kept").rglob(TRAJECTORIES)]
    assert len(files) == 6
    for file in files:
        assert (tmp_path / "kept" / file).read_bytes() == (tmp_path / "fresh" / file).read_bytes()


def _evaluate_and_die(folder: Path, model: Path, log: Path) -> None:
    play = play_in(folder, play_command=own_server(log), **KEPT)
    play.evaluate("untrained", "untrained", model_stage(play, model))
    assert all(alive(pid) for pid, *_ in started(log))
    die()


def test_kill_9_between_stages_leaves_none_that_was_kept(
    base: Path,
    tmp_path: Path,
    log: Path,
) -> None:
    assert fork_one(_evaluate_and_die, tmp_path / "run", base, log) == -signal.SIGKILL
    assert len(started(log)) == 2
    assert until(lambda: not any(alive(pid) for pid, *_ in started(log)))


def test_the_fake_swaps_adapters_as_vllm_does(tmp_path: Path) -> None:
    """Statuses as in vLLM's documentation: 400 for what is loaded, 404 for what is not there."""
    fake = FakeEndpoint(models=["base"], loras={})
    load, unload = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
    asked = {"lora_name": "a", "lora_path": str(tmp_path)}
    assert [fake.swap(load, body)[0] for body in ({}, asked, asked)] == [400, 200, 400]
    assert fake.swap(load, {"lora_name": "b", "lora_path": str(tmp_path / "gone")})[0] == 404
    assert [fake.swap(unload, asked)[0] for _ in range(2)] == [200, 404]
    assert FakeEndpoint().swap(load, asked)[0] == 404
