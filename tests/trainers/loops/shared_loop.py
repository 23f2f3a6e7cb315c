"""A small ETO loop for several processes: run whole, then again until one of them is killed."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

from eto_gym.agents.policies import player_policy
from eto_gym.trainers import DPOSettings, SFTSettings
from eto_gym.trainers.loops.eto import ETOLoop
from eto_gym.trainers.loops.tiny_stage import train_base
from eto_gym.trainers.run.process_group import launched
from eto_gym.trainers.settings.loops import ETOSettings
from eto_gym.trainers.settings.world import BaseSettings
from eto_gym.trajectories import PlayedTrajectory, TrajectoryStore
from tests.trainers.locks import GENTLE, PLAY, play_locks

KILLED_AFTER = 5
"""Episodes of the exploration that the second process stores before it is killed."""


def settings(model: str) -> ETOSettings:
    """Learn a little: enough to succeed at times, and to fail at others."""
    quick: dict[str, Any] = {**GENTLE, "learning_rate": 1e-3, "schedule": "linear"}
    del quick["beta"]
    return ETOSettings(
        **PLAY,
        model=model,
        train_tasks=32,
        explore_samples=2,
        explore_temperature=1.0,
        eval_tasks=64,
        control=False,
        sft=SFTSettings(**quick, epochs=2),
        dpo=DPOSettings(**GENTLE, epochs=2),
    )


def run(model: str, folder: Path) -> dict[str, Any]:
    """Run the loop in a folder; first train a base model beside it."""
    played = play_locks(player_policy, tasks=12)
    small = BaseSettings(
        vocab_size=360, hidden_size=32, layers=1, heads=2, kv_heads=1, mlp_size=32, context=256,
        train=SFTSettings(max_length=256, batch_size=6, micro_batch_size=6, epochs=1),
    )  # fmt: skip
    train_base(small, played, output=folder / "base", progress=False, processes=launched())
    return ETOLoop(settings(model), folder / "run").run()


def run_and_die(model: str, out: str) -> None:
    """Run the loop, and then its second half once more, with an untimely end."""
    folder = Path(out)
    run(model, folder / "whole")
    later = shutil.ignore_patterns("explore-*", "pairs-*", "eto-*", "eval-eto-*")
    launched().first(lambda: shutil.copytree(folder / "whole", folder / "killed", ignore=later))
    add = TrajectoryStore.add
    stored: list[str] = []

    def fatal_add(self: TrajectoryStore, trajectory: PlayedTrajectory) -> None:
        add(self, trajectory)
        if "explore" in self.path.parent.name and os.environ["RANK"] == "1":
            stored.append(trajectory.task_id)
            if len(stored) == KILLED_AFTER:
                os.kill(os.getpid(), signal.SIGKILL)

    TrajectoryStore.add = fatal_add  # type: ignore[method-assign]
    run(model, folder / "killed")
