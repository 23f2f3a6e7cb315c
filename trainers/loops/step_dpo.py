"""Step-level DPO: explore around the experts' steps, and prefer the steps that lead to more.

Sources: the step-wise contrast of the ETO paper (https://arxiv.org/abs/2403.02502), with the
Monte-Carlo step values of IPR (https://arxiv.org/abs/2406.11176).
"""

from __future__ import annotations

from eto_gym.trainers.loops.step_loop import StepLoop
from eto_gym.trainers.settings.loops import StepDPOSettings


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
