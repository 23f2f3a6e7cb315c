"""The ETO loop, whole, on a very small scale: stages, report, resuming after a kill."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from eto_gym.cli import train
from eto_gym.errors import EtoGymError
from eto_gym.files import owned
from eto_gym.trainers.loops.eto import ETOLoop
from eto_gym.trainers.loops.run_folder import FINISHED, RunFolder
from eto_gym.trainers.loops.stage_data import PAIRS, TRAJECTORIES
from eto_gym.trainers.settings.base import SettingsError
from eto_gym.trainers.settings.loops import ETOSettings
from eto_gym.trainers.settings.methods import DPOSettings, SFTSettings
from eto_gym.trainers.settings.presets import PRESETS, preset_values
from eto_gym.trainers.settings.world import BaseSettings
from eto_gym.trajectories import TrajectoryStore
from eto_gym.trajectories.formats import read_pair, read_records
from tests.trainers.locks import GENTLE, MUON, PLAY, assert_learnt
from tests.trainers.processes import die, fork_one

STAGES = [
    "base-play", "base", "eval-untrained", "experts", "sft", "eval-sft",
    "explore-1", "pairs-1", "eto-1", "eval-eto-1", "control", "eval-control",
]  # fmt: skip


def small_settings(**changes: Any) -> ETOSettings:
    short = SFTSettings(
        epochs=1.0, batch_size=4, micro_batch_size=4, max_length=2048, truncation="cut"
    )
    base = BaseSettings(
        tasks=6, steps=4, hidden_size=32, layers=1, heads=2, kv_heads=1, mlp_size=32,
        vocab_size=400,
        train=dataclasses.replace(short, train_on="all"),
    )  # fmt: skip
    dpo = DPOSettings(epochs=1.0, batch_size=4, micro_batch_size=4, max_length=2048)
    values: dict[str, Any] = {
        "data": "builtin:small", "train_tasks": 6, "eval_tasks": 5, "max_steps": 3,
        "prompt_style": "none", "max_new_tokens": 6, "max_context": 2048, "slots": 8,
        "progress": False, "base": base, "sft": short, "dpo": dpo,
    }  # fmt: skip
    return ETOSettings(**{**values, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("run")
    return folder, ETOLoop(small_settings(max_steps=6), folder).run()


def stage(folder: Path, name: str) -> Path:
    (found,) = [p for p in (folder / "stages").iterdir() if p.name.rsplit("-", 1)[0] == name]
    return found


def test_every_stage_leaves_its_result(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, report = finished
    assert [item["name"] for item in report["stages"]] == STAGES
    assert (folder / FINISHED).exists()
    assert json.loads((folder / "config.json").read_text())["train_tasks"] == 6
    experts = TrajectoryStore(stage(folder, "experts") / TRAJECTORIES).load(strict=True)
    assert len(experts) == 6
    assert any(t.success for t in experts)
    assert len(read_records(stage(folder, "sft") / "sft.json")) == sum(t.success for t in experts)
    for name in ("base", "sft", "eto-1", "control"):
        assert (stage(folder, name) / "model" / "model.safetensors").exists()


def test_pairs_are_failures_against_successes_of_the_same_task(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    folder, _ = finished
    experts = {
        t.task_id: t for t in TrajectoryStore(stage(folder, "experts") / TRAJECTORIES).load()
    }
    records = read_records(stage(folder, "pairs-1") / PAIRS)
    assert records, "an untrained agent fails, so there must be pairs"
    for record in records:
        pair = read_pair(record)
        expert = experts[pair.task_id]
        assert expert.success
        said = [m.content for m in expert.messages if m.train]
        assert [m.content for m in pair.chosen if m.train] == said


def test_report_counts_the_same_episodes_for_every_policy(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    folder, report = finished
    assert [row["policy"] for row in report["policies"]] == [
        "untrained (tiny, base stage only)",
        "SFT",
        "ETO, iteration 1",
        "control: SFT continued",
    ]
    assert all(row["episodes"] == 5 for row in report["policies"])
    text = (folder / "report.md").read_text()
    assert "gained" in text
    assert "| SFT" in text
    assert "Paired with the control" in text
    ours = next(row for row in report["policies"] if row["policy"] == "ETO, iteration 1")
    assert ours["paired_with_control"]["episodes"] == 5
    assert sum("paired_with_control" in row for row in report["policies"]) == 1
    assert json.loads((folder / "report.json").read_text())["seed"] == 0


def test_a_finished_run_is_not_repeated(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, report = finished
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.suffix != ".json"}
    again = ETOLoop(small_settings(max_steps=6), folder).run()
    assert all(item["reused"] for item in again["stages"])
    assert again["policies"] == report["policies"]
    changed = {p for p, t in before.items() if p.is_file() and p.stat().st_mtime_ns != t}
    assert {p.name for p in changed} <= {"report.md", "report.html"}


def test_the_start_model_need_not_be_played(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """All else is as it was, and nothing of it is done again."""
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    shutil.rmtree(stage(folder, "eval-untrained"))
    report = ETOLoop(small_settings(max_steps=6, eval_start=False), folder).run()
    assert [item["name"] for item in report["stages"]] == [
        name for name in STAGES if name != "eval-untrained"
    ]
    assert all(item["reused"] for item in report["stages"])
    kept = [row["policy"] for row in finished[1]["policies"][1:]]
    assert [row["policy"] for row in report["policies"]] == kept


def test_a_changed_setting_redoes_only_what_depends_on_it(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    folder, _ = finished
    settings = small_settings(max_steps=6)
    other = dataclasses.replace(settings, dpo=dataclasses.replace(settings.dpo, beta=0.3))
    report = ETOLoop(other, folder).run()
    redone = [item["name"] for item in report["stages"] if not item["reused"]]
    assert redone == ["eto-1", "eval-eto-1"]


def test_other_limits_of_replies_are_other_episodes(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    limits = {"max_new_tokens": 7, "max_context": 2049, "play_dtype": "bfloat16"}
    for name, value in limits.items():
        other = small_settings(max_steps=6, **{name: value})
        report = ETOLoop(other, folder).run()
        redone = {item["name"] for item in report["stages"] if not item["reused"]}
        assert redone >= {"eval-untrained", "eval-sft", "explore-1", "eval-control"}
        assert not redone & {"base-play", "base", "experts", "sft", "control"}
        assert json.loads((folder / "config.json").read_text())[name] == value
        sampling = report["policies"][0]["card"]["sampling"]
        assert sampling.get("dtype") == (value if name == "play_dtype" else None)
    report = ETOLoop(small_settings(max_steps=6), folder).run()
    assert all(item["reused"] for item in report["stages"])
    after = json.loads((folder / "config.json").read_text())
    first = {"max_new_tokens": 6, "max_context": 2048, "play_dtype": "auto"}
    assert after.pop("first_limits") == first
    assert after == json.loads(json.dumps(small_settings(max_steps=6).to_json()))


def test_a_folder_of_before_was_played_as_saved(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    config = json.loads((folder / "config.json").read_text())
    del config["play_dtype"]
    (folder / "config.json").write_text(json.dumps(config))
    loop = ETOLoop(small_settings(max_steps=6, play_dtype="bfloat16"), folder)
    assert loop._write_config() == {"play_dtype": "bfloat16"}


def test_servers_are_told_their_precision_by_their_own_arguments() -> None:
    with pytest.raises(SettingsError, match="--dtype bfloat16"):
        small_settings(play="serve", play_dtype="bfloat16")


def _run_until(folder: Path, victim: str | None) -> None:
    """Run the loop, and be killed as soon as a stage has begun."""
    begin = RunFolder._open

    def begin_and_die(stage: Path, settings: Any) -> bool:
        finished = begin(stage, settings)
        if not finished and stage.name.rsplit("-", 1)[0] == victim:
            die()
        return finished

    RunFolder._open = staticmethod(begin_and_die)  # type: ignore[assignment, method-assign]
    ETOLoop(small_settings(), folder).run()


@pytest.mark.timeout(600)
def test_a_killed_run_resumes_in_every_stage(tmp_path: Path) -> None:
    """Kill -9 as soon as a stage has begun, one stage after the other."""
    finished: dict[Path, int] = {}
    for victim in (*STAGES, None):
        assert fork_one(_run_until, tmp_path, victim) == (-signal.SIGKILL if victim else 0)
        for marker, stamp in finished.items():
            assert marker.stat().st_mtime_ns == stamp, f"{marker.parent.name} was done again"
        finished = {p: p.stat().st_mtime_ns for p in tmp_path.glob(f"stages/*/{FINISHED}")}
        assert len(finished) == (STAGES.index(victim) if victim else len(STAGES))
    assert (tmp_path / FINISHED).exists()


def test_dry_run_prints_the_settings_and_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "c.yaml"
    config.write_text("dpo:\n  beta: 0.25\n")
    words = ["eto", "--preset", "quickstart", "--config", str(config), "--sft.epochs", "9"]
    assert train.main([*words, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "beta: 0.25" in printed
    assert "epochs: 9.0" in printed
    assert "model: tiny" in printed
    assert list(tmp_path.iterdir()) == [config]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["eto", "--preset", name, "--dry-run"]) == 0
    assert f"preset: {name}" in capsys.readouterr().out
    assert preset_values(name)["preset"] == name


def test_dev_tasks_of_the_training_split_are_its_last(tmp_path: Path) -> None:
    loop = ETOLoop(small_settings(dev_tasks=2, dev_split="train"), tmp_path)
    whole = ETOLoop(small_settings(), tmp_path)
    loop.play.open()
    whole.play.open()
    every = whole.play.task_ids("train", 0)
    assert loop.play.dev_ids() == every[-2:]
    assert not set(every[-2:]) & set(loop.play.task_ids("train", loop.settings.train_tasks))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(SettingsError, match="iterations"):
        ETOSettings(iterations=-1)
    with pytest.raises(SettingsError, match="slots"):
        ETOSettings(slots=0)
    with pytest.raises(SettingsError, match=r"same lora_r in each, got sft.lora_r 4, dpo.lora_r 8"):
        ETOSettings(sft=SFTSettings(lora_r=4), dpo=DPOSettings(lora_r=8))


def test_a_run_folder_has_one_run_at_a_time(tmp_path: Path) -> None:
    with owned(tmp_path), pytest.raises(EtoGymError, match=f"another run is writing to {tmp_path}"):
        ETOLoop(small_settings(), tmp_path).run()
    assert [*tmp_path.rglob("*")] == [tmp_path / "stages"]


def test_it_learns_from_failures_against_successes(locksmith: Path, tmp_path: Path) -> None:
    short = SFTSettings(**{**MUON, "muon_learning_rate": 1e-4, "learning_rate": 1e-4}, epochs=1)
    settings = ETOSettings(
        **PLAY,
        model=str(locksmith),
        train_tasks=192,
        sft=short,
        dpo=DPOSettings(**GENTLE, epochs=3),
    )  # fmt: skip
    report = ETOLoop(settings, tmp_path).run()
    assert_learnt(report, "ETO, iteration 1")
    assert_learnt(report, "ETO, iteration 1", than_control=True)
