"""The loop of mixture training: explore, pair episodes and steps, train on both."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from eto_gym.trainers.loops.loop import Loop
from eto_gym.trainers.loops.run_folder import Stage
from eto_gym.trainers.loops.stage_data import MODEL, load_pairs, model_of
from eto_gym.trainers.loops.step_stage import step_pairs
from eto_gym.trainers.methods.mixture import run_mixture
from eto_gym.trainers.settings.loops import MixtureLoopSettings


class MixtureLoop(Loop[MixtureLoopSettings]):
    """One run of mixture training in a run folder."""

    method = "mixture"

    def _run_stages(self) -> None:
        s = self.settings
        _, experts, current = first = self._demonstrate(s, s.sft)
        for i in range(1, s.iterations + 1):
            explored = self.play.explore(f"explore-{i}", current, s, tasks=s.train_tasks)
            pairs = self.data.pair(f"pairs-{i}", s.pairing, experts, explored)
            steps = step_pairs(
                self.play, f"steps-{i}", s.steps, current, experts, tasks=s.step_tasks
            )
            current = self._mix(f"mixture-{i}", current, pairs, steps)
            self.play.evaluate(f"mixture, iteration {i}", f"mixture-{i}", current)
        self._control(s, s.sft, first)

    def _mix(self, name: str, model: Stage, outcomes: Stage, steps: Stage) -> Stage:
        settings = self.settings.mixture

        def work(folder: Path) -> Any:
            report = run_mixture(
                settings,
                load_pairs(outcomes),
                load_pairs(steps),
                model=model_of(model),
                output=folder / MODEL,
                resume=True,
                watch=self.train.watch(model),
            )
            return asdict(report)

        return self.play.folder.run(
            name, work, settings=self.train.watched(settings), inputs=(model, outcomes, steps)
        )
