"""Losses and credit of later methods: each learns to open locks, and beats where it began.

All start from one model with one set of demonstrations, in one run folder, so that what they share
is made once. The methods that have a test file of their own are tested there. SimPO is not: of
seven settings none stayed well above chance over the seeds; its loss is tested against numbers.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from eto_gym.cli.train import LOOPS
from eto_gym.trainers.settings import loops
from eto_gym.trainers.settings.fields import build
from tests.trainers.locks import GENTLE, MUON, PLAY, assert_learnt

BARELY = {**MUON, "muon_learning_rate": 1e-4, "learning_rate": 1e-4}
"""SFT that leaves the model as it is: what is learnt is the method's."""

WORLD: dict[str, Any] = {**PLAY, "train_tasks": 192, "sft": {**BARELY, "max_steps": 3}}

# Rates that fall to nothing: at GENTLE's, these losses make so small a model forget how to speak.
FALLING = {**GENTLE, "learning_rate": 3e-4, "schedule": "linear", "epochs": 4.0}
FAST = {**MUON, "learning_rate": 5e-3, "muon_learning_rate": 0.01, "epochs": 3.0}
EXACT = {"reward": "exact", "rollouts": 2}

LEARNING: dict[str, tuple[str, dict[str, Any]]] = {
    "kto": ("eto", {
        "dpo": {**GENTLE, "loss": "kto", "epochs": 2.0}, "pairing": {"contrast": "unpaired"},
    }),
    "dmpo": ("eto", {"dpo": {**FALLING, "loss": "dmpo"}}),
    "orpo": ("eto", {"dpo": {**FAST, "loss": "orpo", "beta": 0.5}}),
    "step-dpo-exact": ("step-dpo", {
        "explore_tasks": 64, "dpo": {**GENTLE, "epochs": 4.0}, "steps": EXACT,
    }),
    "hpl": ("hpl", {
        "explore_tasks": 96, "step_tasks": 32, "mixture": {**GENTLE, "epochs": 1.0},
        "steps": EXACT, "groups": EXACT,
    }),
    "milestones": ("grpo", {
        "group": {
            "learning_rate": 1e-3, "max_steps": 14, "batch_size": 64, "micro_batch_size": 64,
            "generations": 8, "max_length": 256, "warmup_ratio": 0, "advantage": "milestones",
            "horizon_start": 1,
        },
    }),
}  # fmt: skip
"""Name of the panel -> its command and its settings here."""


def run(name: str, model: Path, folder: Path, *, seed: int = 0) -> dict[str, Any]:
    """Run a method on the locks, and return its report."""
    method, own = LEARNING[name]
    entry = LOOPS[method]
    values = {**WORLD, **own, "model": str(model), "seed": seed}
    if method != "grpo":
        values["control"] = False
    settings = build(getattr(loops, entry.settings), values)
    loop = getattr(importlib.import_module(entry.module), entry.loop)
    report: dict[str, Any] = loop(settings, folder).run()
    return report


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run folder for all."""
    return tmp_path_factory.mktemp("learning")


@pytest.mark.parametrize("name", LEARNING)
def test_it_learns(name: str, locksmith: Path, folder: Path) -> None:
    report = run(name, locksmith, folder)
    assert_learnt(report, report["policies"][-1]["policy"])
