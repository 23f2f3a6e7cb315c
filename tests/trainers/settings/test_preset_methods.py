"""Every preset suits every method: what it explores with, and what its trainings keep in memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from eto_gym.cli import train
from eto_gym.trainers.settings import loops
from eto_gym.trainers.settings.base import TrainSettings
from eto_gym.trainers.settings.presets import PRESETS, from_preset, settings_from, trainings_of
from eto_gym.trainers.settings.world import ExplorationSettings

ENVS = ("ETO/ALFWorld-v0", "ETO/WebShop-v0", "ETO/ScienceWorld-v0")
OF_THE_PAPER = ("paper", "script", "llama-2-7b", "qlora-7b", "qwen2.5-1.5b")
"""Presets that explore as the paper does."""


def settings_of(method: str, preset: str, env: str = ENVS[0]) -> Any:
    kind = getattr(loops, train.LOOPS[method].settings)
    return from_preset(kind, preset, method=method, env=env)


EXPLORING = [
    method
    for method, entry in train.LOOPS.items()
    if issubclass(getattr(loops, entry.settings), ExplorationSettings)
]


def test_these_methods_explore_whole_episodes() -> None:
    assert set(EXPLORING) == {"eto", "rft", "self-play", "mixture", "hpl"}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("method", EXPLORING)
def test_what_compares_own_episodes_samples_several(method: str, preset: str) -> None:
    for env in ENVS:
        settings = settings_of(method, preset, env)
        pairing = getattr(settings, "pairing", None)
        if pairing is None or pairing.contrast == "self":
            assert settings.explore_samples > 1, env
            assert settings.explore_temperature > 0, env


@pytest.mark.parametrize("preset", OF_THE_PAPER)
def test_the_papers_presets_leave_the_other_methods_their_own_exploration(preset: str) -> None:
    for env in ENVS:
        found = {
            method: (
                settings_of(method, preset, env).explore_samples,
                settings_of(method, preset, env).explore_temperature,
            )
            for method in EXPLORING
        }
        assert found == {
            **dict.fromkeys(("eto", "mixture", "hpl"), (1, 0.0)),
            "rft": (10, 0.7),
            "self-play": (10, 1.0),
        }


LOW_MEMORY: dict[str, dict[str, Any]] = {
    "llama-2-7b": {"gradient_checkpointing": True, "precision": "bf16"},
    "qwen2.5-1.5b": {"gradient_checkpointing": True, "precision": "bf16"},
    "qlora-7b": {
        "gradient_checkpointing": True, "precision": "bf16", "qlora": True, "lora_r": 16,
        "optimizer": "paged_adamw8bit",
    },
}  # fmt: skip
"""Presets that are meant for less memory, and what they spare it by."""


@pytest.mark.parametrize("preset", LOW_MEMORY)
@pytest.mark.parametrize("method", train.LOOPS)
def test_every_training_of_a_method_spares_memory_as_the_preset_says(
    method: str, preset: str
) -> None:
    for env in ENVS:
        settings = settings_of(method, preset, env)
        trainings = [
            item.name
            for item in dataclasses.fields(settings)
            if isinstance(getattr(settings, item.name), TrainSettings)
        ]
        assert trainings == trainings_of(type(settings))
        for name in trainings:
            training = getattr(settings, name)
            found = {word: getattr(training, word) for word in LOW_MEMORY[preset]}
            assert found == LOW_MEMORY[preset], name
            assert training.micro_batch_size <= 2, name
        assert settings.base.train.lora_r == 0


def test_the_presets_that_spare_memory_are_these() -> None:
    sparing = {
        preset
        for preset in PRESETS
        for method in train.LOOPS
        for part in trainings_of(type(settings_of(method, preset)))
        if getattr(settings_of(method, preset), part).gradient_checkpointing
        or getattr(settings_of(method, preset), part).lora_r
    }
    assert sparing == set(LOW_MEMORY)


@pytest.mark.parametrize("preset", PRESETS)
def test_predicting_the_world_is_trained_as_sft_is_in_one_epoch(preset: str) -> None:
    for env in ENVS:
        settings = settings_of("early-experience", preset, env)
        assert settings.world == dataclasses.replace(settings.sft, epochs=1.0)


@pytest.mark.parametrize("method", ["eto", "early-experience", "ppo", "grpo"])
def test_a_file_may_set_something_of_every_training(method: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("trainings: {lora_r: 8, precision: bf16}\nsft: {precision: fp32}\n")
    kind = getattr(loops, train.LOOPS[method].settings)
    found = settings_from(kind, files=[file], method=method)
    parts = trainings_of(kind)
    assert len(parts) == 2
    assert {name: item.value for name, item in found.items()} == {
        **{f"{part}.lora_r": 8 for part in parts},
        **{f"{part}.precision": "fp32" if part == "sft" else "bf16" for part in parts},
    }


def test_a_training_on_a_file_is_one_training(tmp_path: Path) -> None:
    from eto_gym.trainers.settings.methods import SFTSettings

    file = tmp_path / "mine.yaml"
    file.write_text("trainings: {lora_r: 8}\n")
    found = settings_from(SFTSettings, files=[file])
    assert {name: item.value for name, item in found.items()} == {"lora_r": 8}
