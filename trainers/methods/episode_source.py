"""Plays the episodes that GRPO and RLOO compare, and lays them out as TRL has them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from eto_gym.conversation import episode_step_limit
from eto_gym.trainers.data.encoding import TokenReport, TokenRow
from eto_gym.trainers.data.sampled import EpisodeRows, encode_sampled
from eto_gym.trainers.methods.advantages import Mark, Play, assign, horizon, mark_states
from eto_gym.trainers.methods.player import EpisodePlayer
from eto_gym.trainers.methods.row_forests import turns_of
from eto_gym.trainers.model import models
from eto_gym.trainers.model.scoring import without_dropout
from eto_gym.trainers.settings.methods import GroupSettings
from eto_gym.trajectories import Trajectory


class EpisodeSource:
    """Plays the episodes of a batch, and keeps their tokens and rewards in order."""

    def __init__(self, player: EpisodePlayer, codec: Any, settings: GroupSettings) -> None:
        """Prepare."""
        self.player = player
        self.data = TokenReport()
        self.episodes: list[EpisodeRows] = []
        self.rewards: list[float | None] = []
        self.advantages: list[list[float]] = []
        self.tokens_seen = 0
        self._limit: int | None = None
        self._codec = codec
        self._settings = settings

    def play(self, task_ids: Sequence[str], trainer: Any) -> None:
        """Play one episode of every task named, with the trainer's model as it is.

        An episode that is not scored has no reward, which TRL leaves out of the comparison. Of
        several processes each plays its part of the tasks, with the seeds that one would give them.
        """
        s = self._settings
        wrapped = trainer.accelerator.unwrap_model(trainer.model)
        model = models.bare_model(wrapped)
        place = trainer.accelerator.process_index * len(task_ids)
        first = trainer.state.global_step * s.batch_size + place
        turns = self._most_turns(trainer)
        shorter = {} if turns is None else {"most_turns": turns}
        with without_dropout(wrapped):
            played = self.player.play(model, self._codec, task_ids, first, **shorter)
        self.episodes, report = encode_sampled(
            self._codec, played, max_length=s.max_length, truncation=s.truncation
        )
        self.rewards = [
            t.reward if episode.rows and t.scored else None
            for t, episode in zip(played, self.episodes, strict=True)
        ]
        tokens = sum(episode.tokens for episode in self.episodes)
        self.tokens_seen += tokens
        results = [(t.success if t.scored else None, len(t.steps)) for t in played]
        together: list[tuple[bool | None, int]] = []
        for other, some in gather_object([(report, results)]):
            self.data.include(other)
            together += some
        notes = trainer._metrics["train"]
        if known := [success for success, _ in together if success is not None]:
            notes["success"].append(sum(known) / len(known))
        notes["errors"].append(float(len(together) - len(known)))
        notes["env_steps"].append(float(sum(steps for _, steps in together)))
        self._give_credit(played, trainer)

    def _most_turns(self, trainer: Any) -> int | None:
        s = self._settings
        if not s.horizon_start:
            return None
        if self._limit is None:
            env = self.player.conversation()
            self._limit = episode_step_limit(env) or 0
            env.close()
        step = trainer.state.global_step
        turns = horizon(
            step, first=s.horizon_start, growth=s.horizon_growth, most=self._limit or None
        )
        trainer._metrics["train"]["horizon"].append(float(turns or self._limit))
        return turns

    def _give_credit(self, played: Sequence[Trajectory], trainer: Any) -> None:
        """Credit every turn of the batch's episodes, those of all processes compared."""
        s = self._settings
        marks: list[tuple[Mark, ...]] = [() for _ in played]
        if s.advantage != "episode":
            env = self.player.conversation()
            try:
                marks = [mark_states(env, t, s.advantage) if t.scored else () for t in played]
            finally:
                env.close()
        own = [
            Play(t.task_id, reward, tuple(step.reward for step in t.steps), mark)
            for t, reward, mark in zip(played, self.rewards, marks, strict=True)
        ]
        plays = gather_object(own)
        credit = assign(
            plays, s.advantage, weight=s.advantage_weight, discount=s.advantage_discount
        )
        start = trainer.accelerator.process_index * len(own)
        self.advantages = credit.advantages[start : start + len(own)]
        notes = trainer._metrics["train"]
        notes["groups/without_contrast"].append(float(credit.dropped))
        if s.advantage != "episode":
            notes["turns/with_own_credit"].append(credit.known)

    def spread(self, like: torch.Tensor) -> torch.Tensor:
        """Return the advantage of every sampled token, laid out as completions are: (B, C)."""
        found = torch.zeros(like.shape)
        for i, (episode, turns) in enumerate(zip(self.episodes, self.advantages, strict=True)):
            if episode.rows and turns:
                numbers = turns_of(episode.rows)
                found[i, : len(numbers)] = torch.tensor(turns)[numbers]
        return found.to(like.device)

    def laid_out(self) -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
        """Return the prompts and the completions for TRL, and which of the latter were sampled.

        TRL needs a token on both sides: an episode without any has one that counts for nothing.
        """
        end = self._codec.end_of_turn_id
        prompts, completions, marks = [], [], []
        for episode in self.episodes:
            sampled = episode.trained
            row = episode.rows[0] if sampled else TokenRow([end], [True])
            prompts.append(row.ids[: row.mask.index(True)] or [end])
            completions.append(sampled or [end])
            marks.append([int(bool(sampled))] * max(1, len(sampled)))
        return prompts, completions, marks

    def score(self, prompts: Sequence[str], **_: Any) -> list[float | None]:
        """Return the rewards of the episodes played last: a reward function of TRL."""
        return self.rewards


class KeepCounts(TrainerCallback, ExportableState):
    """Keeps in checkpoints what the report of a run says of the steps before."""

    def __init__(self, trainer: Any, data: TokenReport) -> None:
        """Prepare.

        Args:
            trainer: The trainer, for the notes about what it decided.
            data: What tokenisation did with the episodes: a resumed run goes on counting.
        """
        self._trainer = trainer
        self._data = data

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        data, notes = dataclasses.asdict(self._data), dict(getattr(self._trainer, "notes", {}))
        return {"args": {}, "attributes": {"data": data, "notes": notes}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Go on with what a checkpoint keeps; one of an earlier version has less."""
        kept = state.stateful_callbacks.get(type(self).__name__) if state.global_step else None
        if kept:
            self._data.include(TokenReport.from_json(kept["attributes"]["data"]))
            self._trainer.notes.update(kept["attributes"].get("notes", {}))
