"""What the loops share whose model plays while it is trained."""

from __future__ import annotations

from typing import Any, TypeVar

from eto_gym.errors import EtoGymError
from eto_gym.trainers.loops.loop import Loop
from eto_gym.trainers.methods.player import EpisodePlayer
from eto_gym.trainers.settings.loops import OnPolicySettings

S = TypeVar("S", bound=OnPolicySettings)


class OnPolicyLoop(Loop[S]):
    """A loop whose model plays while it is trained."""

    def _play_plan(self) -> dict[str, Any]:
        """Return what decides the episodes that the model plays."""
        s = self.settings
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

    def _player(self, episodes: int) -> EpisodePlayer:
        """Return what plays `episodes` episodes at a time, as `_play_plan` says."""
        s = self.settings
        return EpisodePlayer(
            self._spec(_no_policy, s.train_split),
            self._task_ids(s.train_split, s.explore_tasks or s.train_tasks),
            episodes=episodes,
            seed=s.seed,
            max_new_tokens=s.max_new_tokens,
            context=s.max_context,
        )


def _no_policy() -> Any:
    raise EtoGymError("the policy is the model in training")
