"""Rejection-sampled fine-tuning: explore, keep what succeeded, imitate it beside the experts.

Source: Yuan et al., "Scaling Relationship on Learning Mathematical Reasoning with Large Language
Models", 2023 (https://arxiv.org/abs/2308.01825); for agents, the baseline of the ETO paper
(https://arxiv.org/abs/2403.02502). Repeated, it is expert iteration.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from eto_gym.trainers.data.rejection import RejectionSettings
from eto_gym.trainers.loops.loop import Loop
from eto_gym.trainers.methods.sft import SFTSettings
from eto_gym.trainers.settings.base import option
from eto_gym.trainers.settings.loops import (
    ControlSettings,
    ExpertSettings,
    ExplorationSettings,
    WorldSettings,
)
from eto_gym.trainers.settings.presets import narrowed


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


PRESETS = narrowed(RFTSettings)
"""Name of a preset -> the settings in which it differs from the defaults; those of ETO."""


class RFTLoop(Loop[RFTSettings]):
    """One run of rejection-sampled fine-tuning in a run folder."""

    method = "rft"

    def _run_stages(self) -> None:
        s = self.settings
        start, experts, current = first = self._demonstrate(s, s.sft)
        explored = []
        for i in range(1, s.iterations + 1):
            explored.append(self._explore(f"explore-{i}", current, s, tasks=s.train_tasks))
            kept = self._keep(f"kept-{i}", s.keep, *explored)
            model = start if s.start_from == "start" else current
            current = self._sft(f"rft-{i}", s.sft, model, experts, kept)
            self._evaluate(f"RFT, iteration {i}", f"rft-{i}", current)
        self._control(s, s.sft, first)
