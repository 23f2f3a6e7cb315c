"""The loops of mixture training and of HPL: explore, pair episodes and steps, train on all.

HPL, Gao et al. (https://arxiv.org/abs/2510.03253), has pairs of action groups beside them.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from eto_gym.trainers.loops.loop import Loop
from eto_gym.trainers.loops.run_folder import Stage
from eto_gym.trainers.loops.stage_data import MODEL, load_pairs, model_of
from eto_gym.trainers.loops.step_stage import step_pairs
from eto_gym.trainers.methods.mixture import run_mixture
from eto_gym.trainers.settings.loops import HPLLoopSettings, MixtureLoopSettings


class MixtureLoop(Loop[MixtureLoopSettings]):
    """One run of mixture training in a run folder."""

    method = "mixture"
    label: ClassVar[str] = "mixture"

    def _run_stages(self) -> None:
        s = self.settings
        _, experts, current = first = self._demonstrate(s, s.sft)
        for i in range(1, s.iterations + 1):
            explored = self.play.explore(f"explore-{i}", current, s, tasks=s.train_tasks)
            pairs = self.data.pair(f"pairs-{i}", s.pairing, experts, explored)
            steps = step_pairs(
                self.play, f"steps-{i}", s.steps, current, experts, tasks=s.step_tasks
            )
            groups = self._group(i, current, experts)
            current = self._mix(f"{self.method}-{i}", current, pairs, steps, *groups)
            self.play.evaluate(f"{self.label}, iteration {i}", f"{self.method}-{i}", current)
        self._control(s, s.sft, first)

    def _group(self, iteration: int, model: Stage, experts: Stage) -> tuple[Stage, ...]:
        """Return the stage of the action groups, if the method has any."""
        return ()

    def _mix(self, name: str, model: Stage, *pairs: Stage) -> Stage:
        settings = self.settings.mixture

        def work(folder: Path) -> Any:
            report = run_mixture(
                settings,
                *map(load_pairs, pairs),
                model=model_of(model),
                output=folder / MODEL,
                resume=True,
                watch=self.train.watch(model),
            )
            return asdict(report)

        return self.play.folder.run(
            name, work, settings=self.train.watched(settings), inputs=(model, *pairs)
        )


class HPLLoop(MixtureLoop):
    """One run of hierarchical preference learning in a run folder."""

    method = "hpl"
    label = "HPL"
    settings: HPLLoopSettings

    def _group(self, iteration: int, model: Stage, experts: Stage) -> tuple[Stage, ...]:
        s = self.settings
        name = f"groups-{iteration}"
        return (step_pairs(self.play, name, s.groups, model, experts, tasks=s.step_tasks),)
