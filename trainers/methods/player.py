"""Plays the episodes of an on-policy round with the model in training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from eto_gym.agents.rollout.collect import RolloutSpec
from eto_gym.conversation import ConversationEnv
from eto_gym.errors import EtoGymError
from eto_gym.history import FULL
from eto_gym.trajectories import Trajectory

Play = Callable[[Any, Any, int, range], Sequence[Trajectory]]
"""Takes the model, its codec, the number of the round and which of its episodes to play, counted
from 0: of several processes each plays a part. Returns these episodes, with the tokens that were
sampled; those of an episode without them are made of its words."""


class EpisodePlayer:
    """Plays the episodes of a round in this process, with the very model that is being trained."""

    def __init__(
        self,
        spec: RolloutSpec,
        task_ids: Sequence[str],
        *,
        episodes: int,
        seed: int,
        max_new_tokens: int,
        context: int,
        history: str = FULL,
    ) -> None:
        """Prepare.

        Args:
            spec: The environments; its policy is not used.
            task_ids: Tasks to draw from: in shuffled order, each as often as the others.
            episodes: Episodes per round.
            seed: Seed of the order of tasks and of the sampling.
            max_new_tokens: Longest reply in tokens.
            context: Longest conversation in tokens.
            history: How much of a conversation is read for a reply; see `eto_gym.history`.
        """
        self._history = history
        self._spec = spec
        self.task_ids = task_ids
        self._episodes = episodes
        self._seed = seed
        self._options: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "context": context,
            "temperature": 1.0,
            # Learnt from is what was sampled, token by token, after the tokens that were read.
            "tokens": "ids",
            "keep_sampled": True,
        }

    def __call__(self, model: Any, codec: Any, number: int, part: range) -> list[Trajectory]:
        """Play a part of round `number`; the number of an episode decides its task and seed."""
        first = number * self._episodes
        tasks = [self._task(first + i) for i in part]
        return self.play(model, codec, tasks, first + part.start)

    def play(
        self,
        model: Any,
        codec: Any,
        task_ids: Sequence[str],
        first: int,
        *,
        most_turns: int | None = None,
    ) -> list[Trajectory]:
        """Play one episode of every task named, in order; `first` numbers the first of them.

        `most_turns` ends episodes earlier than the environment does.

        Raises:
            EtoGymError: The model failed in all of them.
        """
        from eto_gym.agents.models.local import LocalPolicy
        from eto_gym.agents.rollout.engine import Episode, Rollout, plan_episodes
        from eto_gym.trainers.model.tree_attention import plain_attention

        episodes = [
            Episode(task, i, plan_episodes([task], seed=self._seed + first + i)[0].seed)
            for i, task in enumerate(task_ids)
        ]
        rollout = Rollout(
            self._spec.make_env if most_turns is None else self._shorter(most_turns).make_env,
            LocalPolicy(model, codec, name=f"from-{first}", **self._options),
            slots=self._spec.slots,
            prompt_style=self._spec.prompt_style,
            history=self._history,
        )
        with plain_attention(model):
            played = {trajectory.sample: trajectory for trajectory in rollout.play(episodes)}
        if played and all(trajectory.error == "policy" for trajectory in played.values()):
            raise EtoGymError(
                f"the model in training failed in all of {len(played)} episodes (see the log): "
                "there is nothing to learn from"
            )
        return [played[i] for i in range(len(episodes))]

    def conversation(self) -> ConversationEnv:
        """Return an environment of the same making, to repeat episodes in; the caller closes it."""
        return ConversationEnv(
            self._spec.make_env(), prompt_style=self._spec.prompt_style, history=self._history
        )

    def _shorter(self, turns: int) -> RolloutSpec:
        kwargs = {**self._spec.env_kwargs, "max_episode_steps": turns}
        return dataclasses.replace(self._spec, env_kwargs=kwargs)

    def _task(self, index: int) -> str:
        """Return the task at a place of the endless sequence of shuffled passes over all tasks."""
        import random

        turn, place = divmod(index, len(self.task_ids))
        order = list(self.task_ids)
        random.Random(f"{self._seed}:{turn}").shuffle(order)
        return order[place]
