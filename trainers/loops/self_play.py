"""Self-play: no expert; the agent learns from its own successes, and from its own failures.

Source: the section "self-play" of Song et al., 2024 (https://arxiv.org/abs/2403.02502): RFT on own
successes alone, ETO on own pairs alone, and RFT followed by ETO.
"""

from __future__ import annotations

import functools

from eto_gym.trainers.loops.loop import Loop
from eto_gym.trainers.loops.play_stages import PlayStages, Turn
from eto_gym.trainers.loops.rounds import Rounds
from eto_gym.trainers.loops.run_folder import Stage
from eto_gym.trainers.settings.loops import SelfPlaySettings


class SelfPlayLoop(Loop[SelfPlaySettings]):
    """One run of self-play in a run folder."""

    method = "self-play"
    reference = None

    def _run_stages(self) -> None:
        s = self.settings
        current = self.train.start_model()
        explore = functools.partial(_explore, settings=s)
        rounds = Rounds(self.play, current, count=s.rounds, explore=explore)
        for i in range(1, s.iterations + 1):
            if "rft" in s.phases:
                current = self._imitate(i, current, rounds)
            if "eto" in s.phases:
                current = self._contrast(i, current, rounds)

    def _imitate(self, i: int, current: Stage, rounds: Rounds[Stage]) -> Stage:
        s = self.settings
        kept = self.data.keep(f"kept-{i}", s.keep, rounds.explored())
        current = rounds.train(self.train.sft, f"rft-{i}", s.sft, current, kept)
        self.play.evaluate(f"RFT, iteration {i}", f"rft-{i}", current)
        return current

    def _contrast(self, i: int, current: Stage, rounds: Rounds[Stage]) -> Stage:
        s = self.settings
        pairs = self.data.pair(f"pairs-{i}", s.pairing, None, rounds.explored())
        current = rounds.train(self.train.prefer, f"eto-{i}", s.dpo, current, pairs)
        self.play.evaluate(f"ETO, iteration {i}", f"eto-{i}", current)
        return current


def _explore(play: PlayStages, model: Stage, turn: Turn, *, settings: SelfPlaySettings) -> Stage:
    """Explore for a phase of an iteration, each of which is a round."""
    phases = settings.phases.split("+")
    before, phase = divmod(turn.number - 1, len(phases))
    name = f"explore-{phases[phase]}-{before + 1}"
    return play.explore(name, model, settings, tasks=0, turn=turn)
