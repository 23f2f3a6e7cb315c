"""Settings of the ETO loop, and the presets that fill them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from eto_gym.conversation import PromptStyle
from eto_gym.errors import check_choice
from eto_gym.trainers.base import BaseSettings
from eto_gym.trainers.dpo import DPOSettings
from eto_gym.trainers.options import SettingsError, option
from eto_gym.trainers.pairing import PairingSettings
from eto_gym.trainers.sft import SFTSettings


@dataclass(frozen=True, kw_only=True)
class ETOSettings:
    """What one run of the loop does; the defaults are the paper's where it names a value."""

    env: str = option("ETO/ALFWorld-v0", "registered id of the environment")
    data: str = option(
        "builtin", "'builtin' for the benchmark's generated tasks, or a folder of official data"
    )
    env_options: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "further arguments of gym.make, such as {'action_grammar': 'put'}"},
    )
    model: str = option(
        "tiny", "'tiny' builds a small model from scratch; else a model folder or hub name"
    )
    train_split: str = option("train", "split that is demonstrated and explored")
    eval_split: str = option("test", "held-out split that every policy is evaluated on")
    train_tasks: int = option(0, "tasks to demonstrate; 0: all", paper="all")
    explore_tasks: int = option(0, "of these, tasks to explore; 0: all", paper="all")
    eval_tasks: int = option(0, "tasks to evaluate on; 0: all")
    expert_file: str = option(
        "", "demonstrations in the paper's SFT form or as stored trajectories; empty: own expert"
    )
    strict: bool = option(
        False, "refuse an expert file with corrupt lines instead of skipping them"
    )
    max_steps: int = option(
        0, "replies per episode; 0: the environment's registered limit", paper="ALFWorld 40"
    )
    iterations: int = option(
        1, "rounds of exploration and preference training", paper="ALFWorld 1, others 2"
    )
    explore_samples: int = option(1, "episodes per task in exploration", paper="1")
    explore_temperature: float = option(
        0.0, "sampling temperature of exploration; 0: greedy", paper="0"
    )
    prompt_style: PromptStyle = option(
        "one-shot",
        "what precedes the first observation: one-shot, instruction, or none",
        paper="one-shot",
    )
    max_new_tokens: int = option(256, "longest reply in tokens")
    max_context: int = option(4096, "longest conversation in tokens", paper="4096")
    slots: int = option(64, "episodes that are played at the same time")
    workers: int = option(1, "processes that play; each loads the model")
    control: bool = option(
        True, "also continue SFT on the same demonstrations, as the control for preference training"
    )
    control_epochs: float = option(
        0.0, "epochs of the control over the demonstrations; 0: as many as SFT had"
    )
    seed: int = option(0, "seed of the task order, of sampling and of new weights")
    progress: bool = option(True, "show progress bars")
    preset: str = option("custom", "name of the preset; recorded in reports")
    base: BaseSettings = field(default_factory=BaseSettings)
    sft: SFTSettings = field(default_factory=SFTSettings)
    pairing: PairingSettings = field(default_factory=PairingSettings)
    dpo: DPOSettings = field(default_factory=DPOSettings)

    def __post_init__(self) -> None:
        """Reject values that cannot work."""
        for name, least in (
            ("iterations", 0),
            ("max_steps", 0),
            ("train_tasks", 0),
            ("explore_tasks", 0),
            ("eval_tasks", 0),
            ("explore_samples", 1),
            ("slots", 1),
            ("workers", 1),
        ):
            if getattr(self, name) < least:
                raise SettingsError(f"expected {name} >= {least}, got {getattr(self, name)}")

    def env_kwargs(self) -> dict[str, Any]:
        """Return the arguments of `gym.make`, the split excepted."""
        limit = {"max_episode_steps": self.max_steps} if self.max_steps else {}
        return {"data": self.data, **limit, **self.env_options}

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable form."""
        return dataclasses.asdict(self)


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
    return {**PRESETS[check_choice("preset", name, PRESETS)], "preset": name}
