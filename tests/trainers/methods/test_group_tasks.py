"""Tasks of GRPO and RLOO: a batch is filled, however few there are."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eto_gym.agents.rollout.collect import RolloutSpec
from eto_gym.errors import EtoGymError
from eto_gym.trainers.loops.loop import Demonstrated
from eto_gym.trainers.loops.on_policy import GRPOLoop, play_plan
from eto_gym.trainers.loops.run_folder import Stage
from eto_gym.trainers.methods.group import run_group
from eto_gym.trainers.methods.player import EpisodePlayer
from eto_gym.trainers.run.training import Watch
from eto_gym.trainers.settings.base import SettingsError, deciding
from eto_gym.trainers.settings.loops import GroupLoopSettings
from eto_gym.trainers.settings.methods import GroupSettings
from tests.trainers.locks import LOCKS_ID, PLAY, LocksEnv

pytest.importorskip("torch")
pytest.importorskip("trl")

SETTINGS = GroupSettings(
    learning_rate=1e-3, max_steps=3, batch_size=8, micro_batch_size=4, generations=2,
    max_length=256, warmup_ratio=0,
)  # fmt: skip


def player(tasks: tuple[str, ...]) -> EpisodePlayer:
    spec = RolloutSpec(LOCKS_ID, lambda: None, prompt_style="none", slots=128)  # type: ignore[arg-type,return-value]
    return EpisodePlayer(spec, tasks, episodes=8, seed=0, max_new_tokens=6, context=256)


def noting(tasks: tuple[str, ...]) -> tuple[EpisodePlayer, list[list[str]]]:
    """Return a player, and the list that receives the tasks of each step that it plays."""
    plays = player(tasks)
    batches: list[list[str]] = []
    play = plays.play

    def noted(model: Any, codec: Any, task_ids: Any, first: int, **options: Any) -> Any:
        batches.append(list(task_ids))
        return play(model, codec, task_ids, first, **options)

    plays.play = noted  # type: ignore[method-assign]
    return plays, batches


@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_fewer_tasks_than_groups_are_played_in_several_of_them(
    tiny: Path, tmp_path: Path, algorithm: str, tasks: int
) -> None:
    """TRL's sampler leaves out what does not fill a batch: here that would be all."""
    names = LocksEnv().task_set.ids[:tasks]
    plays, batches = noting(names)
    watch = Watch(progress=False)
    report = run_group(algorithm, SETTINGS, plays, model=tiny, output=tmp_path / "out", watch=watch)
    assert report.steps == len(batches) == len(report.metrics) == 3
    for batch in batches:
        assert len(batch) == 8
        assert batch[::2] == batch[1::2], "a group has one task"
    assert {name for batch in batches for name in batch} == set(names)
    assert report.notes["tasks"] == f"of a batch's 4 groups several play one of the {tasks}"


@pytest.mark.parametrize("algorithm", ["grpo", pytest.param("rloo", marks=pytest.mark.slow)])
def test_a_resumed_run_plays_the_tasks_that_it_would_have_played(
    tiny: Path, tmp_path: Path, algorithm: str
) -> None:
    """Ten tasks, four in a step: two steps are a pass, and each pass has an order of its own."""
    settings = dataclasses.replace(SETTINGS, max_steps=5, save_every=1)

    def run(output: str, die_at: int = 0, **options: Any) -> list[list[str]]:
        plays, batches = noting(LocksEnv().task_set.ids[:10])

        def score(step: int, _: Any) -> float:
            if step == die_at:
                raise KeyboardInterrupt
            return float(step)

        watch = Watch(progress=False, on_evaluate=score if die_at else None, every=1)
        with contextlib.suppress(KeyboardInterrupt):
            run_group(
                algorithm, settings, plays, model=tiny, output=tmp_path / output, watch=watch,
                **options,
            )  # fmt: skip
        return batches

    whole = run("whole")
    assert len(whole) == 5
    assert len({tuple(batch) for batch in whole}) == 5, "passes differ in their order"
    for die_at in (3, 4):  # it is resumed between two passes, and within one
        assert run("parts", die_at) == whole[:die_at]
        rest = run("parts", resume=True)
        assert rest == whole[die_at - 1 :]
        shutil.rmtree(tmp_path / "parts")


@pytest.mark.parametrize("algorithm", ["grpo", pytest.param("rloo", marks=pytest.mark.slow)])
def test_a_model_that_is_trained_in_16_bits_plays(
    tiny: Path, tmp_path: Path, algorithm: str
) -> None:
    settings = dataclasses.replace(SETTINGS, max_steps=1, precision="bf16")
    plays, _ = noting(LocksEnv().task_set.ids[:4])
    play, played = plays.play, []

    def noted(*args: Any, **options: Any) -> Any:
        played.extend(play(*args, **options))
        return played

    plays.play = noted  # type: ignore[method-assign]
    watch = Watch(progress=False)
    run_group(algorithm, settings, plays, model=tiny, output=tmp_path / "out", watch=watch)
    assert len(played) == 8
    assert not any(t.failed_to_run and t.error != "context" for t in played)


def test_a_model_in_training_that_always_fails_ends_the_run(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eto_gym.agents.models.local import LocalPolicy

    def act(*_: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(LocalPolicy, "act", act)
    plays = player(LocksEnv().task_set.ids[:4])
    with pytest.raises(EtoGymError, match="failed in all of 8 episodes"):
        run_group(
            "grpo", SETTINGS, plays, model=tiny, output=tmp_path / "out",
            watch=Watch(progress=False),
        )  # fmt: skip


def test_a_run_killed_after_its_last_step_reports_what_the_whole_one_does(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eto_gym.trainers.run import base_trainer

    def run(output: str, **options: Any) -> dict[str, Any]:
        plays, _ = noting(LocksEnv().task_set.ids[:2])
        report = run_group(
            "grpo", dataclasses.replace(SETTINGS, max_steps=1), plays, model=tiny,
            output=tmp_path / output, watch=Watch(progress=False), **options,
        )  # fmt: skip
        return {"data": report.data, "notes": report.notes, "steps": report.steps}

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(base_trainer, "finish", die)
        with pytest.raises(KeyboardInterrupt):
            run("parts")
    whole = run("whole")
    assert set(whole["notes"]) == {"share_prefix", "tasks"}
    assert run("parts", resume=True) == whole


@given(tasks=st.integers(1, 40), groups=st.integers(1, 20))
def test_tasks_stand_in_a_pass_as_often_as_fills_a_batch(tasks: int, groups: int) -> None:
    settings = GroupSettings(batch_size=2 * groups, generations=2, micro_batch_size=1)
    repeats = settings.repeats(tasks)
    assert repeats * tasks >= groups
    assert (repeats == 1) == (tasks >= groups)
    assert (repeats - 1) * tasks < groups


def test_a_group_method_refuses_to_learn_from_no_task(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is none to play"):
        run_group("grpo", SETTINGS, player(()), model=tiny, output=tmp_path / "out")


@pytest.mark.parametrize("few", [False, True])
def test_a_loop_names_that_its_tasks_are_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: bool
) -> None:
    """A stage that was made when few tasks trained nothing is not taken for this one."""
    settings = GroupLoopSettings(
        **PLAY,
        model="m",
        train_tasks=1 if few else 8,
        group=GroupSettings(batch_size=16, generations=2),
    )
    loop = GRPOLoop(settings, tmp_path)
    loop.play.open()
    stage = Stage("model", "key", tmp_path, {"model": "m"}, 0.0, reused=False)
    monkeypatch.setattr(loop, "_demonstrate", lambda *_: Demonstrated(stage, stage, stage))
    monkeypatch.setattr(loop.play, "evaluate", lambda *_: None)
    named: list[Any] = []

    def run(*_: Any, settings: Any, **__: Any) -> Stage:
        named.append(settings)
        return stage

    monkeypatch.setattr(loop.play.folder, "run", run)
    loop._run_stages()
    (key,) = named
    more = {"repeats": 8} if few else {}
    assert key == {"group": deciding(loop.settings.group), **play_plan(loop.settings), **more}
