"""The ETO loop: demonstrate, fine-tune, explore, pair failures with successes, prefer, repeat.

Source: Song et al., "Trial and Error: Exploration-Based Trajectory Optimization for LLM Agents",
ACL 2024 (https://arxiv.org/abs/2403.02502), algorithm 1.
"""

from __future__ import annotations

import functools

from eto_gym.trainers.loops.loop import Loop
from eto_gym.trainers.loops.rounds import Rounds, explore_tasks
from eto_gym.trainers.settings.loops import ETOSettings


class ETOLoop(Loop[ETOSettings]):
    """One run of ETO in a run folder; every stage is done once, however often it is started.

    Example, without the command line:

        settings = from_preset(ETOSettings, "quickstart")
        report = ETOLoop(settings, "runs/first").run()
    """

    method = "eto"

    def _run_stages(self) -> None:
        s = self.settings
        _, experts, current = first = self._demonstrate(s, s.sft)
        explore = functools.partial(explore_tasks, exploration=s, tasks=s.train_tasks)
        rounds = Rounds(self.play, current, count=s.rounds, explore=explore)
        for i in range(1, s.iterations + 1):
            pairs = self.data.pair(f"pairs-{i}", s.pairing, experts, rounds.explored())
            current = rounds.train(self.train.prefer, f"eto-{i}", s.dpo_of(i), current, pairs)
            self.play.evaluate(f"ETO, iteration {i}", f"eto-{i}", current)
        self._control(s, s.sft, first)
