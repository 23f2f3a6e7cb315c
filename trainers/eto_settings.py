"""Settings of the ETO loop, and the presets that fill them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from eto_gym.trainers import loop_settings
from eto_gym.trainers.dpo import DPOSettings
from eto_gym.trainers.loop_settings import (
    ControlSettings,
    ExpertSettings,
    ExplorationSettings,
    WorldSettings,
)
from eto_gym.trainers.pairing import PairingSettings
from eto_gym.trainers.sft import SFTSettings


@dataclass(frozen=True, kw_only=True)
class ETOSettings(WorldSettings, ExpertSettings, ExplorationSettings, ControlSettings):
    """What one run of the loop does; the defaults are the paper's where it names a value."""

    sft: SFTSettings = field(default_factory=SFTSettings)
    pairing: PairingSettings = field(default_factory=PairingSettings)
    dpo: DPOSettings = field(default_factory=DPOSettings)


# Values that the ETO scripts (https://github.com/Yifan-Song793/ETO) set otherwise than the paper.
_PAPER: dict[str, Any] = {
    "iterations": 1,
    "sft": {"learning_rate": 1e-5, "batch_size": 64, "epochs": 3.0},
    "dpo": {"learning_rate": 1e-6, "beta": 0.1, "batch_size": 32, "epochs": 3.0},
}
PRESETS: dict[str, dict[str, Any]] = {
    "paper": _PAPER,
    "script": {
        "iterations": 3,
        "sft": {"learning_rate": 2e-5, "batch_size": 64, "epochs": 3.0},
        "dpo": {"learning_rate": 5e-7, "beta": 0.5, "batch_size": 32, "epochs": 3.0},
    },
    # Smaller than the real thing in every way: a model from scratch, and minutes on two cores.
    "quickstart": {
        "model": "tiny",
        "data": "builtin:small",
        "train_tasks": 2400,
        "explore_tasks": 400,
        "explore_samples": 4,
        "explore_temperature": 0.7,
        "eval_tasks": 1000,
        "max_steps": 20,
        "prompt_style": "none",
        "control_epochs": 1.0,
        "max_new_tokens": 48,
        "max_context": 2048,
        "slots": 256,
        "workers": 2,
        "sft": {
            "optimizer": "muon",
            "learning_rate": 3e-3,
            "muon_learning_rate": 0.01,
            "adam_beta2": 0.95,
            "epochs": 3.0,
            "batch_size": 4,
            "micro_batch_size": 4,
            "schedule": "linear",
            "max_length": 2048,
        },
        # The agent's own success against its own failure: see README.md.
        "pairing": {"contrast": "self", "cut_after_divergence": 1, "max_pairs_per_task": 2},
        "dpo": {
            "learning_rate": 5e-5,
            "epochs": 2.0,
            "batch_size": 8,
            "micro_batch_size": 4,
            "max_length": 2048,
        },
    },
}
"""Name of a preset -> the settings in which it differs from the defaults."""


def preset_values(name: str) -> dict[str, Any]:
    """Return the settings of a preset, nested as in `ETOSettings`.

    Raises:
        UnknownNameError: There is no such preset.
    """
    return loop_settings.preset_values(name, PRESETS)
