"""Rejection-sampled fine-tuning: explore, keep what succeeded, imitate it beside the experts.

Source: Yuan et al., "Scaling Relationship on Learning Mathematical Reasoning with Large Language
Models", 2023 (https://arxiv.org/abs/2308.01825); for agents, the baseline of the ETO paper
(https://arxiv.org/abs/2403.02502). Repeated, it is expert iteration.
"""

from __future__ import annotations

import functools
from dataclasses import replace

from eto_gym.trainers.loops.loop import Loop
from eto_gym.trainers.loops.rounds import Rounds, explore_tasks
from eto_gym.trainers.settings.loops import RFTSettings


class RFTLoop(Loop[RFTSettings]):
    """One run of rejection-sampled fine-tuning in a run folder."""

    method = "rft"

    def _run_stages(self) -> None:
        s = self.settings
        start, experts, current = first = self._demonstrate(s, s.sft)
        explore = functools.partial(explore_tasks, exploration=s, tasks=s.train_tasks)
        rounds = Rounds(self.play, current, count=s.rounds, explore=explore)
        explored = []
        for i in range(1, s.iterations + 1):
            explored.append(rounds.explored())
            kept = self.data.keep(f"kept-{i}", s.keep, *explored)
            model = start if s.start_from == "start" else current
            settings = replace(s.sft, train_tokens=s.later_tokens or s.sft.train_tokens)
            current = rounds.train(self.train.sft, f"rft-{i}", settings, model, experts, kept)
            self.play.evaluate(f"RFT, iteration {i}", f"rft-{i}", current)
        self._control(s, s.sft, first)
