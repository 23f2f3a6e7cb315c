"""Values that cannot work are refused where they are given, before anything is played."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from eto_gym.cli import train
from eto_gym.errors import EtoGymError
from eto_gym.trainers.settings import loops
from eto_gym.trainers.settings.data import (
    ExperienceSettings,
    PairingSettings,
    RejectionSettings,
    StepSettings,
)
from eto_gym.trainers.settings.methods import SFTSettings
from eto_gym.trainers.settings.world import BaseSettings, ControlSettings

ALL = (
    loops.ETOSettings,
    loops.RFTSettings,
    loops.SelfPlaySettings,
    loops.StepDPOSettings,
    loops.MixtureLoopSettings,
    loops.HPLLoopSettings,
    loops.EarlyExperienceSettings,
    loops.PPOLoopSettings,
    loops.GroupLoopSettings,
    loops.RLOOLoopSettings,
)

WRONG: dict[str, list[Any]] = {
    "control_epochs": [-1.0, math.nan, math.inf],
    "control_tokens": [-1],
    "control_rate": [-0.1, math.nan, math.inf],
    "later_tokens": [-4],
    "step_tasks": [-1],
    "train_tasks": [-1],
    "explore_tasks": [-1],
    "explore_samples": [0],
    "explore_temperature": [-0.1, math.nan],
    "iterations": [-1],
    "start_from": ["foo"],
    "phases": ["eto+rft"],
    "prompt_style": ["two-shot"],
    "feedback": ["rude"],
    "play_dtype": ["int3"],
    "play_timeout": [0.0, math.nan],
    "max_new_tokens": [0, -3],
    "max_context": [0, -1],
    "max_steps": [-1],
    "eval_tasks": [-1],
    "dev_tasks": [-1],
    "dev_every": [-1],
    "patience": [-1],
    "slots": [0],
    "workers": [0],
    "servers": [-1],
    "seed": [-1],
}


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.method)
def test_a_loop_refuses_by_name_what_cannot_work(kind: Any) -> None:
    kind()
    for name in WRONG.keys() & kind.__dataclass_fields__.keys():
        for value in WRONG[name]:
            with pytest.raises(EtoGymError, match=name) as caught:
                kind(**{name: value})
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.method)
def test_every_number_and_choice_of_a_loop_is_checked(kind: Any) -> None:
    """A new setting needs a bound, or it is taken whatever it says."""
    for name, item in kind.__dataclass_fields__.items():
        default = item.default
        if item.metadata.get("choices"):
            wrong: Any = "no such choice"
        elif type(default) in (int, float):
            wrong = type(default)(-7)
        else:
            continue
        with pytest.raises(EtoGymError, match=name):
            kind(**{name: wrong})


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (BaseSettings, "tasks", -1),
        (BaseSettings, "samples", 0),
        (BaseSettings, "steps", 0),
        (BaseSettings, "vocab_size", 260),
        (BaseSettings, "layers", 0),
        (BaseSettings, "heads", 3),
        (BaseSettings, "kv_heads", 3),
        (BaseSettings, "seed", -1),
        (StepSettings, "temperature", math.nan),
        (StepSettings, "threshold", math.nan),
        (StepSettings, "extent", "all"),
        (ExperienceSettings, "temperature", math.inf),
        (ExperienceSettings, "tries", 0),
        (ExperienceSettings, "source", "dpo"),
        (PairingSettings, "min_gap", math.nan),
        (PairingSettings, "contrast", "both"),
        (RejectionSettings, "max_per_task", -1),
        (SFTSettings, "seed", -1),
        (SFTSettings, "max_grad_norm", -1.0),
        (SFTSettings, "muon_learning_rate", -1.0),
    ],
)
def test_so_do_its_parts(kind: Any, name: str, value: Any) -> None:
    with pytest.raises(EtoGymError, match=name):
        kind(**{name: value})


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("eto --control-epochs -1", "expected control_epochs >= 0, got -1"),
        ("eto --control-tokens -5", "expected control_tokens >= 0, got -5"),
        ("eto --max-new-tokens 0", "expected max_new_tokens >= 1, got 0"),
        ("rft --later-tokens -4", "expected later_tokens >= 0, got -4"),
        ("rft --start-from foo", "start_from"),
        ("mixture --step-tasks -1", "expected step_tasks >= 0, got -1"),
    ],
)
def test_the_dry_run_refuses_them_in_one_line(
    words: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("jsonargparse")
    with pytest.raises((EtoGymError, SystemExit)) as caught:
        train.main([*words.split(), "--dry-run"])
    said = capsys.readouterr().err or str(caught.value)
    assert told in said
    assert "\n" not in said.strip()


@pytest.mark.parametrize("sft", [{}, {"max_steps": 7}, {"train_tokens": 7000}, {"epochs": 2.0}])
def test_the_control_is_as_long_as_it_says_or_as_sft(sft: dict[str, Any]) -> None:
    """100 rows of 10 tokens each; 10 rows a step, or 100 tokens."""
    settings = SFTSettings(**sft, batch_size=10, micro_batch_size=10)

    def length(**control: Any) -> tuple[float, int]:
        longer = ControlSettings(**control).control_of(settings).for_data(100, 1000)
        return longer.epochs, longer.max_steps

    plain = settings.for_data(100, 1000)
    assert length() == (plain.epochs, plain.max_steps)
    assert length(control_epochs=9.0) == (9.0, 0), "no limit of steps, so all epochs are run"
    assert length(control_tokens=500)[1] == 5
    assert length(control_tokens=500, control_epochs=9.0)[1] == 5


@pytest.mark.parametrize("length", [{}, {"control_epochs": 3.0}, {"control_tokens": 500}])
def test_the_control_learns_as_fast_as_it_says_or_as_sft(length: dict[str, Any]) -> None:
    settings = SFTSettings(learning_rate=2e-4, muon_learning_rate=0.02)
    as_fast = ControlSettings(**length).control_of(settings)
    assert (as_fast.learning_rate, as_fast.muon_learning_rate) == (2e-4, 0.02)
    slower = ControlSettings(control_rate=0.1, **length).control_of(settings)
    rates = {"learning_rate": pytest.approx(2e-5), "muon_learning_rate": pytest.approx(2e-3)}
    assert dataclasses.asdict(slower) == dataclasses.asdict(as_fast) | rates
