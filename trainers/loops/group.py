"""GRPO and RLOO as loops: SFT on the experts, then either from there."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from eto_gym.trainers.loops.loop import Loop
from eto_gym.trainers.loops.on_policy import episode_player, play_plan
from eto_gym.trainers.loops.run_folder import Stage
from eto_gym.trainers.loops.stage_data import MODEL, model_of
from eto_gym.trainers.methods.group import run_group
from eto_gym.trainers.settings.loops import GroupLoopSettings


class _GroupLoop(Loop[GroupLoopSettings]):
    algorithm: ClassVar[str]

    def _run_stages(self) -> None:
        s = self.settings
        learnt = self._learn(self._demonstrate(s, s.sft).sft)
        self.play.evaluate(self.algorithm.upper(), self.algorithm, learnt)

    def _learn(self, start: Stage) -> Stage:
        s = self.settings
        plan = play_plan(s)

        def work(folder: Path) -> Any:
            report = run_group(
                self.algorithm,
                s.group,
                episode_player(self.play, s, s.group.batch_size),
                plan=plan,
                model=model_of(start),
                output=folder / MODEL,
                resume=True,
                watch=self.train.watch(start),
            )
            return asdict(report)

        settings = {"group": self.train.watched(s.group), **plan}
        return self.play.folder.run(self.algorithm, work, settings=settings, inputs=(start,))


class GRPOLoop(_GroupLoop):
    """One run of GRPO in a run folder."""

    method = algorithm = "grpo"


class RLOOLoop(_GroupLoop):
    """One run of RLOO in a run folder."""

    method = algorithm = "rloo"
