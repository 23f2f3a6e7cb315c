"""Whole runs of PPO: killed, cut short, refused, and what they learn."""

from __future__ import annotations

import errno
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eto_gym.errors import EtoGymError
from eto_gym.trainers.errors import DiskFullError, TrainingError
from eto_gym.trainers.loops.on_policy import PPOLoop
from eto_gym.trainers.methods.ppo import run_ppo
from eto_gym.trainers.run.training import TrainReport, Watch
from eto_gym.trainers.settings.base import SettingsError
from eto_gym.trainers.settings.loops import PPOLoopSettings
from eto_gym.trainers.settings.methods import PPOSettings, SFTSettings
from tests.trainers.checkpoints import noted_checkpoints
from tests.trainers.locks import MUON, PLAY, assert_learnt, rates, success_of
from tests.trainers.methods.ppo_parts import QUICK, Play, new_player, rewarded

torch = pytest.importorskip("torch")
from eto_gym.trainers.model.weights import save_weights  # noqa: E402


def _run(model: Path, output: Path, settings: PPOSettings = QUICK, **options: Any) -> TrainReport:
    resume = options.pop("resume", False)
    play = options.pop("play", new_player(settings.episodes))
    return run_ppo(
        settings,
        play,
        model=model,
        output=output,
        resume=resume,
        watch=Watch(progress=False, **options),
    )


@pytest.mark.parametrize("lora_r", [0, pytest.param(4, marks=pytest.mark.slow)])
def test_a_killed_run_ends_with_the_same_weights(
    locksmith: Path, tmp_path: Path, lora_r: int
) -> None:
    from safetensors.torch import load_file

    settings = replace(QUICK, lora_r=lora_r, lora_dropout=0.1)
    whole = _run(locksmith, tmp_path / "whole", settings)
    assert [entry["epoch"] for entry in whole.metrics] == [1, 2, 3, 4]
    assert whole.steps == whole.metrics[-1]["step"] == 4 * 2 * 2

    def score(step: int, _: Any) -> float:
        if step == 3:
            raise KeyboardInterrupt
        return float(step)

    with pytest.raises(KeyboardInterrupt):
        _run(locksmith, tmp_path / "parts", settings, on_evaluate=score)
    assert not (tmp_path / "parts").exists()
    with noted_checkpoints() as starts:
        parts = _run(
            locksmith, tmp_path / "parts", settings, resume=True,
            on_evaluate=lambda step, _: float(step),
        )  # fmt: skip
    assert starts == [tmp_path / "parts.work" / "checkpoint-8"]
    assert parts.metrics == whole.metrics
    lines = [(tmp_path / run / "metrics.jsonl").read_text() for run in ("whole", "parts")]
    assert lines[0] == lines[1], "with the keys in the same order"
    assert parts.data == whole.data
    assert [step for step, _ in parts.scores] == [0, 1, 2, 3, 4]
    name = "adapter_model.safetensors" if lora_r else "model.safetensors"
    first, second = (load_file(tmp_path / run / name) for run in ("whole", "parts"))
    assert not any("value_head" in name for name in first)
    assert all(torch.equal(first[name], second[name]) for name in first)
    if not lora_r:
        assert _run(locksmith, tmp_path / "whole", settings, resume=True) == whole


def test_a_full_disk_at_the_value_head_leaves_a_run_that_resumes(
    locksmith: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eto_gym.trainers.methods import ppo_rounds

    saves: list[Path] = []

    def refuse(head: Any, path: Path) -> None:
        saves.append(path)
        if len(saves) == 2:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save_weights(head, path)

    settings = replace(QUICK, rounds=2, save_every=1)
    with monkeypatch.context() as patch:
        patch.setattr(ppo_rounds, "save_weights", refuse)
        with pytest.raises(DiskFullError, match="run the same command again, without --restart"):
            _run(locksmith, tmp_path / "out", settings)
    with noted_checkpoints() as starts:
        assert _run(locksmith, tmp_path / "out", settings, resume=True).steps == 8
    assert starts == [tmp_path / "out.work" / "checkpoint-4"]


def test_a_run_killed_after_its_last_checkpoint_only_writes_its_model(
    locksmith: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eto_gym.trainers.run import base_trainer

    settings = replace(QUICK, rounds=1)

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(base_trainer, "finish", die)
        with pytest.raises(KeyboardInterrupt):
            _run(locksmith, tmp_path / "out", settings)
    report = _run(locksmith, tmp_path / "out", settings, resume=True, play=die)
    assert (report.steps, len(report.metrics), report.data.rows) == (4, 1, 16)
    assert report.notes["share_prefix"], "what the steps before had decided"
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_model_that_is_trained_in_16_bits_plays(locksmith: Path, tmp_path: Path) -> None:
    report = _run(locksmith, tmp_path / "out", replace(QUICK, rounds=1, precision="bf16"))
    assert report.data.rows == 16, "every episode was played"


@pytest.mark.parametrize("qlora", [False, True])
def test_adapters_learn_and_are_their_own_reference(
    locksmith: Path, tmp_path: Path, qlora: bool
) -> None:
    if qlora:
        pytest.importorskip("bitsandbytes")
    settings = replace(QUICK, lora_r=4, qlora=qlora, rounds=2, episodes=64, learning_rate=1e-2)
    report = _run(locksmith, tmp_path / "out", settings)
    assert report.metrics[0]["kl_reference"] == pytest.approx(0, abs=1e-6)
    assert abs(report.metrics[1]["kl_reference"]) > 1e-4
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_a_round_ends_early_where_the_policy_moved_too_far(
    tiny: Path, make_play: Play, tmp_path: Path
) -> None:
    plays = [rewarded(make_play(n), float(n % 2)) for n in range(10)]
    settings = replace(
        QUICK, rounds=3, epochs=3, episodes=10, max_length=512, target_kl=1e-6, log_every=2
    )
    report = _run(tiny, tmp_path / "out", settings, play=lambda *_: plays)
    assert report.steps == 3 * 2  # one pass of two batches in each round
    assert [(entry["epoch"], entry["step"]) for entry in report.metrics] == [(2, 4), (3, 6)]
    settings = replace(settings, target_kl=0, max_steps=7)
    report = _run(
        tiny, tmp_path / "steps", settings, play=lambda *_: plays, on_evaluate=lambda n, _: -n
    )
    assert [entry["step"] for entry in report.metrics] == [7]
    assert ([step for step, _ in report.scores], report.kept_step) == ([0, 1, 2], 0)


def test_scores_that_do_not_rise_end_the_run_with_the_best_round(
    locksmith: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    report = _run(
        locksmith, tmp_path / "out", on_evaluate=lambda step, _: -step, every=1, patience=1
    )
    assert (report.steps, report.kept_step, report.best) == (4, 0, (0, 0.0))
    (warning,) = report.warnings
    assert warning.startswith("stopped at round 1: the score did not rise above 0")
    assert warning.endswith("the weights of round 0 are kept")
    first = load_file(locksmith / "model.safetensors")
    kept = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(first[name], kept[name]) for name in first)


def test_rounds_are_reported_where_it_is_asked_for(
    locksmith: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import TrainerCallback
    from transformers.integrations import integration_utils

    told: list[dict[str, Any]] = []

    class Reporter(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            told.append(kwargs["logs"])

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "wandb", Reporter)
    report = _run(locksmith, tmp_path / "out", replace(QUICK, rounds=2, report_to="wandb"))
    rounds = [logs for logs in told if "loss" in logs]
    assert [logs["success"] for logs in rounds] == [e["success"] for e in report.metrics]


def test_it_learns_from_rewards_alone(locksmith: Path, tmp_path: Path) -> None:
    settings = PPOLoopSettings(
        **PLAY,
        model=str(locksmith),
        train_tasks=192,
        sft=SFTSettings(**MUON, max_steps=4),
        ppo=PPOSettings(
            learning_rate=1e-3, value_learning_rate=1e-2, rounds=12, episodes=96, batch_size=32,
            micro_batch_size=32, max_length=256, warmup_ratio=0, kl_weight=0.01, save_every=0,
        ),
    )  # fmt: skip
    report = PPOLoop(settings, tmp_path).run()
    assert_learnt(report, "PPO")
    (folder,) = (tmp_path / "stages").glob("ppo-*")
    assert success_of(folder / "model") == rates(report)["PPO"]


def test_what_cannot_work_is_refused(locksmith: Path, make_play: Play, tmp_path: Path) -> None:
    broken = [make_play(n, error=True) for n in range(3)]
    with pytest.raises(EtoGymError, match=r"round 1 has no episode to learn from: \{'policy': 3\}"):
        _run(locksmith, tmp_path / "out", play=lambda *_: broken)
    endless = [rewarded(make_play(n), math.inf) for n in range(3)]
    with pytest.raises(TrainingError, match="step 1: loss is nan"):
        _run(locksmith, tmp_path / "out", play=lambda *_: endless)
    assert not list(tmp_path.glob("out.work/checkpoint-*"))
    for changes in ({"epochs": 1.5}, {"clip": 0}, {"gamma": 2.0}, {"optimizer": "muon"}):
        with pytest.raises(SettingsError):
            PPOSettings(**changes)
    with pytest.raises(SettingsError, match="workers"):
        PPOLoopSettings(workers=2)
