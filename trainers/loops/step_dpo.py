"""Step-level DPO: explore around the experts' steps, and prefer the steps that lead to more.

Sources: the step-wise contrast of the ETO paper (https://arxiv.org/abs/2403.02502), with the
Monte-Carlo step values of IPR (https://arxiv.org/abs/2406.11176).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from eto_gym.trainers.data.steps import StepSettings
from eto_gym.trainers.loops.step_loop import StepLoop
from eto_gym.trainers.methods.dpo import DPOSettings
from eto_gym.trainers.methods.sft import SFTSettings
from eto_gym.trainers.settings.base import SettingsError, option
from eto_gym.trainers.settings.loops import (
    ControlSettings,
    ExpertSettings,
    WorldSettings,
)
from eto_gym.trainers.settings.presets import UNTRIED, narrowed, sized, sourced


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


PRESETS = narrowed(StepDPOSettings)
"""Name of a preset -> the settings in which it differs from the defaults; those of ETO."""
PRESETS["quickstart"].update(sourced(UNTRIED, explore_tasks=sized(400, 15, 15)))


class StepDPOLoop(StepLoop[StepDPOSettings]):
    """One run of step-level DPO in a run folder."""

    method = "step-dpo"

    def _run_stages(self) -> None:
        s = self.settings
        _, experts, current = first = self._demonstrate(s, s.sft)
        for i in range(1, s.iterations + 1):
            steps = self._steps(f"steps-{i}", s.steps, current, experts, tasks=s.explore_tasks)
            current = self._prefer(f"step-dpo-{i}", s.dpo, current, steps)
            self._evaluate(f"step DPO, iteration {i}", f"step-dpo-{i}", current)
        self._control(s, s.sft, first)
