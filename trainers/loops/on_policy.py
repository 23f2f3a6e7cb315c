"""The loops whose model plays while it is trained: SFT on the experts, then PPO, GRPO or RLOO."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from eto_gym.errors import EtoGymError
from eto_gym.trainers.loops.loop import Loop
from eto_gym.trainers.loops.play_stages import PlayStages
from eto_gym.trainers.loops.run_folder import Stage
from eto_gym.trainers.loops.stage_data import MODEL, model_of
from eto_gym.trainers.methods.group import run_group
from eto_gym.trainers.methods.player import EpisodePlayer
from eto_gym.trainers.methods.ppo import run_ppo
from eto_gym.trainers.run.training import TrainReport
from eto_gym.trainers.settings.base import TrainSettings
from eto_gym.trainers.settings.loops import GroupLoopSettings, OnPolicySettings, PPOLoopSettings

S = TypeVar("S", bound=OnPolicySettings)


class OnPolicyLoop(Loop[S]):
    """A loop that fine-tunes on the experts, and goes on from there by its own episodes."""

    def _learn(
        self,
        start: Stage,
        run: Callable[..., TrainReport],
        *,
        part: str,
        settings: TrainSettings,
        episodes: int,
        more: dict[str, Any] | None = None,
    ) -> Stage:
        """Train a model on what it plays.

        Args:
            start: The model to start from.
            run: Trains; takes the settings, the player, and what every training takes.
            part: Name of the settings among those of the loop.
            settings: How to train.
            episodes: Episodes that are played at a time.
            more: What else decides which tasks are played.
        """
        plan = {**play_plan(self.settings), **(more or {})}

        def work(folder: Path) -> Any:
            report = run(
                settings,
                episode_player(self.play, self.settings, episodes),
                plan=plan,
                model=model_of(start),
                output=folder / MODEL,
                resume=True,
                watch=self.train.watch(start, settings),
            )
            return asdict(report)

        decides = {part: self.train.watched(settings), **plan}
        return self.play.folder.run(self.method, work, settings=decides, inputs=(start,))


class PPOLoop(OnPolicyLoop[PPOLoopSettings]):
    """One run of the PPO baseline in a run folder."""

    method = "ppo"

    def _run_stages(self) -> None:
        s = self.settings
        first = self._demonstrate(s, s.sft)
        learnt = self._learn(
            first.sft, run_ppo, part="ppo", settings=s.ppo, episodes=s.ppo.episodes
        )
        self.play.evaluate("PPO", "ppo", learnt)


class _GroupLoop(OnPolicyLoop[GroupLoopSettings]):
    def _run_stages(self) -> None:
        s = self.settings
        first = self._demonstrate(s, s.sft)
        tasks = self.play.task_ids(s.train_split, s.explore_tasks or s.train_tasks)
        repeats = s.group.repeats(max(1, len(tasks)))
        learnt = self._learn(
            first.sft,
            partial(run_group, self.method),
            part="group",
            settings=s.group,
            episodes=s.group.batch_size,
            more={"repeats": repeats} if repeats > 1 else None,
        )
        self.play.evaluate(self.method.upper(), self.method, learnt)


class GRPOLoop(_GroupLoop):
    """One run of GRPO in a run folder."""

    method = "grpo"


class RLOOLoop(_GroupLoop):
    """One run of RLOO in a run folder."""

    method = "rloo"


def play_plan(settings: OnPolicySettings) -> dict[str, Any]:
    """Return what decides the episodes that the model in training plays; JSON-serialisable."""
    s = settings
    return {
        "env": s.env,
        "env_kwargs": s.env_kwargs(),
        "split": s.train_split,
        "tasks": s.explore_tasks or s.train_tasks,
        "seed": s.seed,
        "prompt_style": s.prompt_style,
        "max_new_tokens": s.max_new_tokens,
        "max_context": s.max_context,
        **s.read_so(),
    }


def episode_player(play: PlayStages, settings: OnPolicySettings, episodes: int) -> EpisodePlayer:
    """Return what plays `episodes` episodes at a time, as `play_plan` says."""
    s = settings
    return EpisodePlayer(
        play.spec(_no_policy, s.train_split),
        play.task_ids(s.train_split, s.explore_tasks or s.train_tasks),
        episodes=episodes,
        seed=s.seed,
        max_new_tokens=s.max_new_tokens,
        context=s.max_context,
        history=s.history,
    )


def _no_policy() -> Any:
    raise EtoGymError("the policy is the model in training")
