"""GRPO and RLOO as loops: SFT on the experts, then either from there."""

from __future__ import annotations

from functools import partial

from eto_gym.trainers.loops.on_policy import OnPolicyLoop
from eto_gym.trainers.methods.group import run_group
from eto_gym.trainers.settings.loops import GroupLoopSettings


class _GroupLoop(OnPolicyLoop[GroupLoopSettings]):
    def _run_stages(self) -> None:
        s = self.settings
        first = self._demonstrate(s, s.sft)
        run = partial(run_group, self.method)
        learnt = self._learn(
            first.sft, run, part="group", settings=s.group, episodes=s.group.batch_size
        )
        self.play.evaluate(self.method.upper(), self.method, learnt)


class GRPOLoop(_GroupLoop):
    """One run of GRPO in a run folder."""

    method = "grpo"


class RLOOLoop(_GroupLoop):
    """One run of RLOO in a run folder."""

    method = "rloo"
