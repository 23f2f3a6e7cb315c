"""Every preset suits every method: what it explores with, and what its trainings keep in memory."""

from __future__ import annotations

from typing import Any

import pytest

from eto_gym.cli import train
from eto_gym.trainers.settings import loops
from eto_gym.trainers.settings.loops import ExplorationSettings
from eto_gym.trainers.settings.presets import PRESETS, from_preset

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
