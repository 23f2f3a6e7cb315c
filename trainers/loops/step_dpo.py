"""Step-level DPO: explore around the experts' steps, and prefer the steps that lead to more.

Sources: the step-wise contrast of the ETO paper (https://arxiv.org/abs/2403.02502), with the
Monte-Carlo step values of IPR (https://arxiv.org/abs/2406.11176).
"""

from __future__ import annotations

import functools

from eto_gym.trainers.loops.loop import Loop
from eto_gym.trainers.loops.play_stages import PlayStages, Turn
from eto_gym.trainers.loops.rounds import Rounds
from eto_gym.trainers.loops.run_folder import Stage
from eto_gym.trainers.loops.step_stage import step_pairs
from eto_gym.trainers.settings.loops import StepDPOSettings


class StepDPOLoop(Loop[StepDPOSettings]):
    """One run of step-level DPO in a run folder."""

    method = "step-dpo"

    def _run_stages(self) -> None:
        s = self.settings
        _, experts, current = first = self._demonstrate(s, s.sft)
        explore = functools.partial(_explore, settings=s, experts=experts)
        rounds = Rounds(self.play, current, count=s.rounds, explore=explore)
        for i in range(1, s.iterations + 1):
            steps = rounds.explored()
            current = rounds.train(self.train.prefer, f"step-dpo-{i}", s.dpo, current, steps)
            self.play.evaluate(f"step DPO, iteration {i}", f"step-dpo-{i}", current)
        self._control(s, s.sft, first)


def _explore(
    play: PlayStages, model: Stage, turn: Turn, *, settings: StepDPOSettings, experts: Stage
) -> Stage:
    name, tasks = f"steps-{turn.number}", settings.explore_tasks
    return step_pairs(play, name, settings.steps, model, experts, tasks=tasks, turn=turn)
