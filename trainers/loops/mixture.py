"""The loops of mixture training and of HPL: explore, pair episodes and steps, train on all.

HPL, Gao et al. (https://arxiv.org/abs/2510.03253), has pairs of action groups beside them.
"""

from __future__ import annotations

import functools
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from eto_gym.trainers.loops.data_stages import DataStages
from eto_gym.trainers.loops.loop import Loop
from eto_gym.trainers.loops.play_stages import PlayStages, Turn
from eto_gym.trainers.loops.rounds import Rounds, explore_tasks
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
        explore = functools.partial(_explore, settings=s, experts=experts)
        rounds = Rounds(self.play, current, count=s.rounds, explore=explore)
        for i in range(1, s.iterations + 1):
            pairs = rounds.explored()
            current = rounds.train(self._mix, f"{self.method}-{i}", current, *pairs)
            self.play.evaluate(f"{self.label}, iteration {i}", f"{self.method}-{i}", current)
        self._control(s, s.sft, first)

    def _mix(self, name: str, model: Stage, *pairs: Stage) -> Stage:
        settings = self.settings.mixture

        def work(folder: Path) -> Any:
            report = run_mixture(
                settings,
                *map(load_pairs, pairs),
                model=model_of(model),
                output=folder / MODEL,
                resume=True,
                watch=self.train.watch(model, settings),
            )
            return asdict(report)

        return self.play.folder.run(
            name, work, settings=self.train.watched(settings), inputs=(model, *pairs)
        )


class HPLLoop(MixtureLoop):
    """One run of hierarchical preference learning in a run folder."""

    method = "hpl"
    label = "HPL"


def _explore(
    play: PlayStages, model: Stage, turn: Turn, *, settings: MixtureLoopSettings, experts: Stage
) -> tuple[Stage, ...]:
    """Explore and pair episodes, steps, and action groups where the method has any."""
    s, i = settings, turn.number
    explored = explore_tasks(play, model, turn, exploration=s, tasks=s.train_tasks)
    pairs = DataStages(play).pair(f"pairs-{i}", s.pairing, experts, explored)
    if not pairs.result["pairs"]:
        load_pairs(pairs)  # says why there are none, before steps are played
    tried = {"steps": s.steps, **({"groups": s.groups} if isinstance(s, HPLLoopSettings) else {})}
    tasks = s.step_tasks
    return (
        pairs,
        *(
            step_pairs(play, f"{name}-{i}", how, model, experts, tasks=tasks, turn=turn)
            for name, how in tried.items()
        ),
    )
