"""Settings of the loops, one class each, and the presets that fill them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from eto_gym.history import FULL
from eto_gym.trainers.settings.base import SettingsError, option
from eto_gym.trainers.settings.data import PairingSettings, RejectionSettings, StepSettings
from eto_gym.trainers.settings.methods import (
    DPOSettings,
    GroupSettings,
    MixtureSettings,
    PPOSettings,
    SFTSettings,
)
from eto_gym.trainers.settings.presets import (
    ALONE,
    HOURS,
    LENGTH,
    PRESETS,
    UNTRIED,
    narrowed,
    sized,
    sourced,
)
from eto_gym.trainers.settings.world import (
    ControlSettings,
    ExpertSettings,
    ExplorationSettings,
    WorldSettings,
)


@dataclass(frozen=True, kw_only=True)
class ETOSettings(WorldSettings, ExpertSettings, ExplorationSettings, ControlSettings):
    """What one run of the loop does; the defaults are the paper's where it names a value."""

    sft: SFTSettings = field(default_factory=SFTSettings)
    pairing: PairingSettings = field(default_factory=PairingSettings)
    dpo: DPOSettings = field(default_factory=DPOSettings)
    dpo_later: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "values of dpo from the second iteration on, such as {'beta': 0.5}"},
    )

    def __post_init__(self) -> None:
        """Reject values that cannot work."""
        super().__post_init__()
        self.dpo_of(2)  # refuses unknown names and values now, not hours later

    def dpo_of(self, iteration: int) -> DPOSettings:
        """Return the settings of preference training in an iteration, counted from 1."""
        try:
            return dataclasses.replace(self.dpo, **(self.dpo_later if iteration > 1 else {}))
        except TypeError as err:
            raise SettingsError(f"dpo_later: {err}") from err


@dataclass(frozen=True, kw_only=True)
class RFTSettings(WorldSettings, ExpertSettings, ExplorationSettings, ControlSettings):
    """What one run of rejection-sampled fine-tuning does."""

    explore_samples: int = option(
        10, "episodes per task in exploration; greedy replies would all be the same"
    )
    explore_temperature: float = option(
        0.7, "sampling temperature of exploration; the paper samples its Best-of-10 at 0.7"
    )
    start_from: str = option(
        "start",
        "what each iteration fine-tunes: 'start', the model before any SFT, on experts and all own "
        "successes so far, as RFT does; 'current', the policy that explored last",
        choices=("start", "current"),
    )
    keep: RejectionSettings = field(default_factory=RejectionSettings)
    sft: SFTSettings = field(default_factory=SFTSettings)


@dataclass(frozen=True, kw_only=True)
class SelfPlaySettings(WorldSettings, ExplorationSettings):
    """What one run without an expert does."""

    explore_samples: int = option(
        10, "episodes per task in exploration; pairs and successes both need several"
    )
    explore_temperature: float = option(
        1.0, "sampling temperature of exploration; an untrained agent must try many things"
    )
    phases: str = option(
        "rft+eto",
        "what each iteration consists of: 'rft', SFT on own successes; 'eto', DPO on pairs of own "
        "episodes; 'rft+eto', the one and then the other, each with its own exploration",
        paper="all three: 48.4, 12.5 and 51.2 on WebShop",
        choices=("rft+eto", "rft", "eto"),
    )
    keep: RejectionSettings = field(default_factory=RejectionSettings)
    sft: SFTSettings = field(default_factory=SFTSettings)
    pairing: PairingSettings = field(default_factory=lambda: PairingSettings(contrast="self"))
    dpo: DPOSettings = field(default_factory=DPOSettings)

    def __post_init__(self) -> None:
        """Reject values that cannot work."""
        super().__post_init__()
        if self.phases not in ("rft+eto", "rft", "eto"):
            raise SettingsError(f"expected phases 'rft+eto', 'rft' or 'eto', got {self.phases!r}")
        if self.pairing.contrast != "self":
            raise SettingsError("self-play has no expert: expected pairing.contrast 'self'")


@dataclass(frozen=True, kw_only=True)
class StepDPOSettings(WorldSettings, ExpertSettings, ControlSettings):
    """What one run of step-level DPO does."""

    iterations: int = option(1, "rounds of exploration and preference training")
    explore_tasks: int = option(0, "demonstrated tasks whose steps are explored; 0: all")
    sft: SFTSettings = field(default_factory=SFTSettings)
    steps: StepSettings = field(default_factory=StepSettings)
    dpo: DPOSettings = field(default_factory=DPOSettings)

    def __post_init__(self) -> None:
        """Reject values that cannot work."""
        super().__post_init__()
        if self.explore_tasks and self.train_tasks and self.explore_tasks > self.train_tasks:
            raise SettingsError(
                "steps are explored around demonstrations: expected explore_tasks <= train_tasks, "
                f"got {self.explore_tasks} > {self.train_tasks}"
            )


@dataclass(frozen=True, kw_only=True)
class MixtureLoopSettings(WorldSettings, ExpertSettings, ExplorationSettings, ControlSettings):
    """What one run of mixture training does."""

    sft: SFTSettings = field(default_factory=SFTSettings)
    pairing: PairingSettings = field(default_factory=PairingSettings)
    steps: StepSettings = field(default_factory=StepSettings)
    step_tasks: int = option(0, "demonstrated tasks whose steps are explored; 0: all")
    mixture: MixtureSettings = field(default_factory=MixtureSettings)


@dataclass(frozen=True, kw_only=True)
class OnPolicySettings(WorldSettings, ExpertSettings):
    """What every loop needs whose model plays while it is trained: SFT first, then play."""

    explore_tasks: int = option(0, "tasks to learn from; 0: those that are demonstrated, or all")
    sft: SFTSettings = field(default_factory=SFTSettings)

    def __post_init__(self) -> None:
        """Reject values that cannot work."""
        super().__post_init__()
        if self.workers != 1:
            raise SettingsError("the model in training plays itself: expected workers 1")
        if self.history != FULL:
            raise SettingsError(
                "ppo, grpo and rloo train on whole conversations: expected history 'full', got "
                f"{self.history!r}"
            )


@dataclass(frozen=True, kw_only=True)
class PPOLoopSettings(OnPolicySettings):
    """What one run of the PPO baseline does: SFT on the experts, then PPO from there."""

    ppo: PPOSettings = field(default_factory=PPOSettings)


@dataclass(frozen=True, kw_only=True)
class GroupLoopSettings(OnPolicySettings):
    """What one run does: SFT on the experts, then GRPO or RLOO from there."""

    group: GroupSettings = field(default_factory=GroupSettings)


LOOP_PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "eto": PRESETS,
    "rft": narrowed(RFTSettings),
    "self-play": {
        name: {
            **values,
            "pairing": {
                **values.get("pairing", {}),
                **sourced("there is no expert", contrast="self"),
            },
        }
        for name, values in narrowed(SelfPlaySettings).items()
    },
    "step-dpo": narrowed(StepDPOSettings),
    "mixture": {
        name: {**values, "mixture": PRESETS[name]["dpo"]}
        for name, values in narrowed(MixtureLoopSettings).items()
    },
    "ppo": narrowed(PPOLoopSettings, **sourced(ALONE, workers=1)),
    "grpo": narrowed(GroupLoopSettings, **sourced(ALONE, workers=1)),
    "rloo": narrowed(GroupLoopSettings, **sourced(ALONE, workers=1)),
}
"""Method -> name of a preset -> the settings in which it differs from the defaults, with sources.
All begin with those of ETO, as far as the method has the same settings."""

LOOP_PRESETS["step-dpo"]["quickstart"].update(sourced(UNTRIED, explore_tasks=sized(400, 15, 15)))
LOOP_PRESETS["mixture"]["quickstart"].update(sourced(UNTRIED, step_tasks=sized(200, 15, 15)))
LOOP_PRESETS["ppo"]["quickstart"].update(
    sourced(UNTRIED + ": dev tasks cost less than the rounds between", dev_every=25)
)
LOOP_PRESETS["ppo"]["quickstart"]["ppo"] = sourced(
    UNTRIED,
    learning_rate=1e-4,
    value_learning_rate=1e-3,
    rounds=sized(40, 10, 10),
    episodes=sized(128, 64, 32),
    max_length=LENGTH,
    truncation=sized("refuse", "cut", "cut"),
)
for _name in ("grpo", "rloo"):
    LOOP_PRESETS[_name]["quickstart"]["group"] = sourced(
        UNTRIED,
        learning_rate=1e-4,
        max_steps=sized(100, 20, 20),
        batch_size=sized(64, 64, 32),
        micro_batch_size=16,
        max_length=LENGTH,
        truncation=sized("refuse", "cut", "cut"),
    )

LOOP_PRESETS["step-dpo"]["smollm2"].update(
    sourced(HOURS, explore_tasks=10), steps=sourced(HOURS, rollouts=2)
)
LOOP_PRESETS["mixture"]["smollm2"].update(
    sourced(HOURS, step_tasks=10), steps=sourced(HOURS, rollouts=2)
)
LOOP_PRESETS["ppo"]["smollm2"]["ppo"] = sourced(
    HOURS, rounds=4, episodes=16, batch_size=8, micro_batch_size=1, max_length=LENGTH
)
for _name in ("grpo", "rloo"):
    LOOP_PRESETS[_name]["smollm2"]["group"] = sourced(
        HOURS,
        max_steps=4,
        batch_size=16,
        generations=4,
        micro_batch_size=1,
        max_length=LENGTH,
        truncation="cut",
    )
