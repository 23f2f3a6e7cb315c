"""No dev task is trained on, wherever demonstrations and explorations come from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from eto_gym import Task
from eto_gym.agents.policies import expert_policy
from eto_gym.agents.rollout.collect import RolloutSpec, collect
from eto_gym.agents.rollout.engine import plan_episodes
from eto_gym.trainers.loops.eto import ETOLoop
from eto_gym.trainers.loops.run_folder import Stage
from eto_gym.trainers.loops.stage_data import TRAJECTORIES, load_trajectories
from eto_gym.trainers.settings.loops import ETOSettings
from eto_gym.trajectories import Trajectory, TrajectoryStore
from eto_gym.trajectories.formats import to_hf_messages, to_paper_sft
from tests.toy import CORRIDOR
from tests.trainers.locks import LOCKS_ID, PLAY

TASKS, ASIDE = 24, 6


def opened(folder: Path, *, aside: int, **options: Any) -> ETOLoop:
    """Return a loop that has looked up its tasks, of which some are set aside."""
    given = {"env": CORRIDOR, "data": "", "model": "m", "prompt_style": "none", "progress": False}
    loop = ETOLoop(ETOSettings(**{**given, **options}, dev_split="train", dev_tasks=aside), folder)
    loop.play.open()
    return loop


def demonstrated(loop: ETOLoop) -> Stage:
    return loop.data.experts(loop.settings)


def ids_of(stage: Stage) -> set[str]:
    return {trajectory.task_id for trajectory in load_trajectories(stage)}


@pytest.mark.parametrize("count", [0, TASKS])
def test_what_was_demonstrated_before_tasks_were_set_aside_is_not_taken(
    count: int, tmp_path: Path
) -> None:
    before = demonstrated(opened(tmp_path, aside=0, train_tasks=count))
    loop = opened(tmp_path, aside=ASIDE, train_tasks=count)
    after = demonstrated(loop)
    assert len(loop.play.dev_ids()) == ASIDE
    assert ids_of(before) & set(loop.play.dev_ids())
    assert not after.reused
    assert after.key != before.key
    assert not ids_of(after) & set(loop.play.dev_ids())
    fewer = demonstrated(opened(tmp_path, aside=ASIDE - 1, train_tasks=count))
    assert len({before.key, after.key, fewer.key}) == 3


@pytest.mark.parametrize("count", [1, TASKS - ASIDE])
def test_a_stage_that_has_the_same_tasks_either_way_is_the_same(count: int, tmp_path: Path) -> None:
    before = demonstrated(opened(tmp_path, aside=0, train_tasks=count))
    after = demonstrated(opened(tmp_path, aside=ASIDE, train_tasks=count))
    assert after.reused
    assert after.key == before.key


@pytest.mark.parametrize(
    ("count", "split", "told"),
    [
        (0, "train", {"tasks": 0, "set_aside": ASIDE}),
        (TASKS, "train", {"tasks": TASKS, "set_aside": ASIDE}),
        (TASKS - ASIDE + 1, "train", {"tasks": TASKS - ASIDE + 1, "set_aside": ASIDE}),
        (TASKS - ASIDE, "train", {"tasks": TASKS - ASIDE}),
        (0, "test", {"tasks": 0}),
    ],
)
def test_stages_name_what_was_set_aside_where_it_decides(
    count: int, split: str, told: dict[str, Any], tmp_path: Path
) -> None:
    assert opened(tmp_path, aside=ASIDE).play.chosen(split, count) == told
    assert opened(tmp_path, aside=0).play.chosen(split, count) == {"tasks": count}


def test_exploration_and_aimless_play_name_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named: dict[str, dict[str, Any]] = {}

    class Told(Exception):
        pass

    loop = opened(tmp_path, aside=ASIDE, model="tiny")

    def run(name: str, work: object, *, settings: Any, **_: Any) -> Stage:
        named[name] = settings
        raise Told

    monkeypatch.setattr(loop.play.folder, "run", run)
    stage = Stage("model", "key", tmp_path, {"model": "m"}, 0.0, reused=False)
    with pytest.raises(Told):
        loop.play.explore("explore-1", stage, loop.settings, tasks=0)
    with pytest.raises(Told):
        loop.train.start_model(evaluated=False)
    assert {name: told.get("set_aside") for name, told in named.items()} == {
        "explore-1": ASIDE,
        "base-play": ASIDE,
    }


def test_the_log_says_how_many_are_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        opened(tmp_path, aside=ASIDE)
        opened(tmp_path, aside=100)
    said = f"{ASIDE} of the {TASKS} training tasks are set aside for dev and not trained on"
    lines = [record.getMessage() for record in caplog.records if "set aside" in record.getMessage()]
    assert lines == [said, f"{said}; 100 were asked for"]


def experts() -> list[Trajectory]:
    """Return an episode of every lock."""
    env = gym.make(LOCKS_ID)
    tasks = env.unwrapped.task_set.ids  # type: ignore[attr-defined]
    return collect(RolloutSpec(LOCKS_ID, expert_policy, prompt_style="none"), plan_episodes(tasks))


def stored(path: Path, played: list[Trajectory]) -> None:
    with TrajectoryStore(path) as store:
        for trajectory in played:
            store.add(trajectory)


def foreign(form: Callable[[Trajectory], dict[str, Any]]) -> Callable[[Path, list[Any]], None]:
    """Return what writes conversations with ids that no environment knows."""

    def write(path: Path, played: list[Any]) -> None:
        path.write_text(
            json.dumps([{**form(trajectory), "id": f"n{i}"} for i, trajectory in enumerate(played)])
        )

    return write


@pytest.mark.parametrize(
    "write", [stored, foreign(to_paper_sft), foreign(to_hf_messages)], ids=["own", "paper", "hf"]
)
def test_a_file_of_demonstrations_teaches_no_dev_task(
    write: Callable[[Path, list[Trajectory]], None], tmp_path: Path
) -> None:
    played = experts()
    openings = {trajectory.task_id: trajectory.messages[0].content for trajectory in played}
    file = tmp_path / "experts.json"
    write(file, played)
    given = {**PLAY, "expert_file": str(file)}
    whole = demonstrated(opened(tmp_path / "run", aside=0, **given))
    assert len(load_trajectories(whole)) == len(played)
    loop = opened(tmp_path / "run", aside=ASIDE, **given)
    stage = demonstrated(loop)
    dev = loop.play.dev_ids()
    kept = load_trajectories(stage)
    if write is stored:  # what has the ids of the environment is told apart by them
        assert {t.task_id for t in kept} == set(openings) - set(dev)
    else:
        alike = {openings[task] for task in dev}
        left = [text for text in openings.values() if text not in alike]
        assert sorted(t.messages[0].content for t in kept) == sorted(left)
    assert kept
    assert stage.key != whole.key
    note = "an episode of a dev task, which is left out"
    assert stage.result["notes"][note] == len(played) - len(kept)


def test_a_file_without_dev_tasks_keeps_its_key(tmp_path: Path) -> None:
    file = tmp_path / "experts.jsonl"
    stored(file, experts())
    loop = opened(tmp_path / "run", aside=0, **{**PLAY, "expert_file": str(file)})
    stamp = file.stat()
    settings = json.loads((demonstrated(loop).path / "settings.json").read_text())
    assert settings == {
        "file": str(file.resolve()), "size": stamp.st_size, "mtime": stamp.st_mtime_ns,
    }  # fmt: skip


def test_what_says_that_it_is_of_the_training_split_is_no_dev_task(tmp_path: Path) -> None:
    """The corridor names the tasks of all splits alike; what was played tells its split."""
    first = demonstrated(opened(tmp_path / "first", aside=0))
    loop = ETOLoop(
        ETOSettings(
            env=CORRIDOR, data="", model="m", prompt_style="none", dev_split="dev", dev_tasks=4,
            expert_file=str(first.path / TRAJECTORIES),
        ),
        tmp_path / "run",
    )  # fmt: skip
    loop.play.open()
    assert ids_of(demonstrated(loop)) == ids_of(first)


def test_a_task_is_named_by_its_id_or_by_its_opening(make_play: Callable[..., Any]) -> None:
    from eto_gym.trainers.data.held_out import HeldOut

    class Rooms:
        resets = 0

        def reset(self, *, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
            self.resets += 1
            number = int(Task(options["task"], "fetch", "train").id.removeprefix("dev-"))
            return make_play(number).messages[2].content, {}

    env: Any = Rooms()
    held_out = HeldOut(["dev-1", "dev-2"], env, known=["task-1", "task-5"])
    assert not held_out.holds(make_play(1)), "its id is known, and none of theirs"
    assert not env.resets, "ids were enough"
    assert held_out.holds(make_play(2))
    assert not held_out.holds(make_play(3))
    assert env.resets == 2
