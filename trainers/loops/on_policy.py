"""The episode player of the loops whose model plays while it is trained."""

from __future__ import annotations

from typing import Any

from eto_gym.errors import EtoGymError
from eto_gym.trainers.loops.play_stages import PlayStages
from eto_gym.trainers.methods.player import EpisodePlayer
from eto_gym.trainers.settings.loops import OnPolicySettings


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
    )


def _no_policy() -> Any:
    raise EtoGymError("the policy is the model in training")
