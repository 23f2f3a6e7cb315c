"""The PPO baseline as a loop: SFT on the experts, then PPO from there."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from eto_gym.trainers.loops.loop import Loop
from eto_gym.trainers.loops.on_policy import episode_player, play_plan
from eto_gym.trainers.loops.run_folder import Stage
from eto_gym.trainers.loops.stage_data import MODEL, model_of
from eto_gym.trainers.methods.ppo import run_ppo
from eto_gym.trainers.settings.loops import PPOLoopSettings


class PPOLoop(Loop[PPOLoopSettings]):
    """One run of the PPO baseline in a run folder."""

    method = "ppo"

    def _run_stages(self) -> None:
        s = self.settings
        self.play.evaluate("PPO", "ppo", self._ppo(self._demonstrate(s, s.sft).sft))

    def _ppo(self, start: Stage) -> Stage:
        s = self.settings
        plan = play_plan(s)

        def work(folder: Path) -> Any:
            report = run_ppo(
                s.ppo,
                episode_player(self.play, s, s.ppo.episodes),
                plan=plan,
                model=model_of(start),
                output=folder / MODEL,
                resume=True,
                watch=self.train.watch(start),
            )
            return asdict(report)

        settings = {"ppo": self.train.watched(s.ppo), **plan}
        return self.play.folder.run("ppo", work, settings=settings, inputs=(start,))
