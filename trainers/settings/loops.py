"""Settings of the loops, one class each."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar

from eto_gym.trainers.settings.base import SettingsError, option
from eto_gym.trainers.settings.data import (
    ActionGroupSettings,
    ExperienceSettings,
    PairingSettings,
    RejectionSettings,
    StepSettings,
)
from eto_gym.trainers.settings.methods import (
    DPOSettings,
    GroupSettings,
    HPLSettings,
    MixtureSettings,
    PPOSettings,
    SFTSettings,
    refuse_turns,
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

    method: ClassVar[str] = "eto"

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
        for i in (1, 2):  # refuses unknown names and values now, not hours later
            loss = self.dpo_of(i).loss
            if self.pairing.contrast == "unpaired" and loss != "kto":
                raise SettingsError(
                    f"the loss {loss!r} compares pairs: pairing.contrast 'unpaired' is for "
                    "dpo.loss 'kto'"
                )

    def dpo_of(self, iteration: int) -> DPOSettings:
        """Return the settings of preference training in an iteration, counted from 1.

        Raises:
            SettingsError: `dpo_later` names a setting that there is not.
        """
        try:
            return dataclasses.replace(self.dpo, **(self.dpo_later if iteration > 1 else {}))
        except TypeError as err:
            raise SettingsError(f"dpo_later: {err}") from err


@dataclass(frozen=True, kw_only=True)
class RFTSettings(WorldSettings, ExpertSettings, ExplorationSettings, ControlSettings):
    """What one run of rejection-sampled fine-tuning does."""

    method: ClassVar[str] = "rft"

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
    later_tokens: int = option(
        0, "tokens that each fine-tuning after the first trains on; 0: as sft says"
    )
    keep: RejectionSettings = field(default_factory=RejectionSettings)
    sft: SFTSettings = field(default_factory=SFTSettings)


@dataclass(frozen=True, kw_only=True)
class SelfPlaySettings(WorldSettings, ExplorationSettings):
    """What one run without an expert does."""

    method: ClassVar[str] = "self-play"

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
        if self.pairing.contrast != "self":
            raise SettingsError("self-play has no expert: expected pairing.contrast 'self'")

    @property
    def rounds(self) -> int:
        """How often the agent explores, each time with a training after it."""
        return self.iterations * len(self.phases.split("+"))


@dataclass(frozen=True, kw_only=True)
class StepDPOSettings(WorldSettings, ExpertSettings, ControlSettings):
    """What one run of step-level DPO does."""

    method: ClassVar[str] = "step-dpo"

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

    @property
    def rounds(self) -> int:
        """How often the agent explores, each time with a training after it."""
        return self.iterations


@dataclass(frozen=True, kw_only=True)
class MixtureLoopSettings(WorldSettings, ExpertSettings, ExplorationSettings, ControlSettings):
    """What one run of mixture training does."""

    method: ClassVar[str] = "mixture"

    sft: SFTSettings = field(default_factory=SFTSettings)
    pairing: PairingSettings = field(default_factory=PairingSettings)
    steps: StepSettings = field(default_factory=StepSettings)
    step_tasks: int = option(0, "demonstrated tasks whose steps are explored; 0: all")
    mixture: MixtureSettings = field(default_factory=MixtureSettings)

    def __post_init__(self) -> None:
        """Reject values that cannot work."""
        super().__post_init__()
        if self.pairing.contrast == "unpaired":
            raise SettingsError(
                f"{self.method} prefers one side of a pair: pairing.contrast 'unpaired' is for eto"
            )


@dataclass(frozen=True, kw_only=True)
class HPLLoopSettings(MixtureLoopSettings):
    """What one run of hierarchical preference learning does."""

    method: ClassVar[str] = "hpl"

    groups: ActionGroupSettings = field(default_factory=ActionGroupSettings)
    mixture: HPLSettings = field(default_factory=HPLSettings)


@dataclass(frozen=True, kw_only=True)
class EarlyExperienceSettings(WorldSettings, ExpertSettings, ControlSettings):
    """What one run of early experience does: predict what other actions lead to, then SFT."""

    method: ClassVar[str] = "early-experience"

    explore_tasks: int = option(
        0, "demonstrated tasks at whose steps other actions are tried; 0: all"
    )
    experience: ExperienceSettings = field(default_factory=ExperienceSettings)
    world: SFTSettings = field(default_factory=lambda: SFTSettings(epochs=1.0))
    sft: SFTSettings = field(default_factory=SFTSettings)

    def __post_init__(self) -> None:
        """Reject values that cannot work."""
        super().__post_init__()
        if self.explore_tasks and self.train_tasks and self.explore_tasks > self.train_tasks:
            raise SettingsError(
                "other actions are tried at the steps of demonstrations: expected explore_tasks <= "
                f"train_tasks, got {self.explore_tasks} > {self.train_tasks}"
            )


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
        if self.play_kind != "local":
            raise SettingsError(
                "the model in training plays itself, and no server has its weights: expected play "
                f"'local', got {self.play_command or self.play!r}. Servers play for eto, rft, "
                "self-play, step-dpo, mixture, hpl and early-experience"
            )


@dataclass(frozen=True, kw_only=True)
class PPOLoopSettings(OnPolicySettings):
    """What one run of the PPO baseline does: SFT on the experts, then PPO from there."""

    method: ClassVar[str] = "ppo"

    ppo: PPOSettings = field(default_factory=PPOSettings)


@dataclass(frozen=True, kw_only=True)
class GroupLoopSettings(OnPolicySettings):
    """What one run does: SFT on the experts, then GRPO or RLOO from there."""

    method: ClassVar[str] = "grpo"

    group: GroupSettings = field(default_factory=GroupSettings)


@dataclass(frozen=True, kw_only=True)
class RLOOLoopSettings(GroupLoopSettings):
    """What one run of RLOO does: as GRPO's, and only with advantages of whole episodes."""

    method: ClassVar[str] = "rloo"

    def __post_init__(self) -> None:
        """Reject values that cannot work."""
        super().__post_init__()
        refuse_turns(self.group)
