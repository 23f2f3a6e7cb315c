"""Self-play: no expert; the agent learns from its own successes, and from its own failures.

Source: the section "self-play" of Song et al., 2024 (https://arxiv.org/abs/2403.02502): RFT on own
successes alone, ETO on own pairs alone, and RFT followed by ETO.
"""

from __future__ import annotations

from eto_gym.trainers.loops.loop import Loop
from eto_gym.trainers.loops.run_folder import Stage
from eto_gym.trainers.settings.loops import SelfPlaySettings


class SelfPlayLoop(Loop[SelfPlaySettings]):
    """One run of self-play in a run folder."""

    method = "self-play"
    reference = None

    def _run_stages(self) -> None:
        s = self.settings
        current = self.train.start_model()
        for i in range(1, s.iterations + 1):
            if "rft" in s.phases:
                current = self._imitate(i, current)
            if "eto" in s.phases:
                current = self._contrast(i, current)

    def _imitate(self, i: int, current: Stage) -> Stage:
        s = self.settings
        explored = self.play.explore(f"explore-rft-{i}", current, s, tasks=0)
        kept = self.data.keep(f"kept-{i}", s.keep, explored)
        current = self.train.sft(f"rft-{i}", s.sft, current, kept)
        self.play.evaluate(f"RFT, iteration {i}", f"rft-{i}", current)
        return current

    def _contrast(self, i: int, current: Stage) -> Stage:
        s = self.settings
        explored = self.play.explore(f"explore-eto-{i}", current, s, tasks=0)
        pairs = self.data.pair(f"pairs-{i}", s.pairing, None, explored)
        current = self.train.prefer(f"eto-{i}", s.dpo, current, pairs)
        self.play.evaluate(f"ETO, iteration {i}", f"eto-{i}", current)
        return current
