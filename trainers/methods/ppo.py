"""PPO on whole episodes: the paper's reinforcement-learning baseline.

Sources: Schulman et al., "Proximal Policy Optimization Algorithms", 2017
(https://arxiv.org/abs/1707.06347), with generalised advantage estimation
(https://arxiv.org/abs/1506.02438); as a baseline, the ETO paper (https://arxiv.org/abs/2403.02502).

A round plays episodes with the model as it is, scores them, estimates an advantage for every turn,
and learns from all of it in several passes. Here are the run and the trainer (play, score, learn);
`row_forests` lays out what was played, `ppo_rounds` has the value head and what a checkpoint keeps,
`ppo_losses` the advantages and the losses.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import TrainingArguments, set_seed

from eto_gym.agents.models.adapters import is_adapter
from eto_gym.errors import EtoGymError
from eto_gym.trainers.data.batching import cut
from eto_gym.trainers.data.encoding import Codec, TokenReport, TokenRow
from eto_gym.trainers.data.sampled import encode_sampled
from eto_gym.trainers.data.trees import score_tokens
from eto_gym.trainers.methods.advantages import Mark, mark_states, own_credit
from eto_gym.trainers.methods.advantages import Play as Credited
from eto_gym.trainers.methods.player import EpisodePlayer, Play
from eto_gym.trainers.methods.ppo_losses import (
    Played,
    Scores,
    divergence,
    estimate,
    joined,
    policy_losses,
    turn_rewards,
    value_losses,
)
from eto_gym.trainers.methods.ppo_rounds import RoundKeeper, ValueHead
from eto_gym.trainers.methods.row_forests import RowForests, turns_of
from eto_gym.trainers.model import models
from eto_gym.trainers.model.offload import activations_of
from eto_gym.trainers.model.optimizers import build_optimizer
from eto_gym.trainers.model.scoring import install_scorer, remove_dropout, without_dropout
from eto_gym.trainers.model.sharding import refuse_spread
from eto_gym.trainers.run import base_trainer
from eto_gym.trainers.run.training import TrainReport, train
from eto_gym.trainers.run.watch import Watch, prepared
from eto_gym.trainers.settings.base import SettingsError
from eto_gym.trainers.settings.methods import PPOSettings
from eto_gym.trajectories import Trajectory

NOTES = ("loss", "value_loss", "kl", "clipped")
"""Means over an optimizer batch that are reported beside the norm of its gradient."""


def run_ppo(
    settings: PPOSettings,
    play: Play,
    *,
    model: str | Path,
    output: str | Path,
    plan: Any = None,
    resume: bool = False,
    watch: Watch | None = None,
) -> TrainReport:
    """Train a model on the rewards of the episodes that it plays.

    Args:
        settings: How to train.
        play: Plays the episodes of a round with the model as it is.
        model: Folder or hub name of a causal language model, or folder of an adapter;
            it is the reference of the KL price too.
        output: Folder of the new model: safetensors, tokenizer, and the report as `training.json`.
            It appears only when it is complete.
        plan: What the play depends on, JSON-serialisable: a run with another plan is not resumed.
        resume: Go on from the last whole checkpoint of a killed run; a finished run is not
            repeated. By default a run starts anew.
        watch: Progress, scores during training, early stopping, all counted in rounds; by default a
            progress bar only.

    Returns:
        The report; its metrics have one entry per round: "epoch" (the round), "step" (optimizer
        steps so far), "success", "reward", "turns" of the episodes, "errors" (episodes that failed
        to run, which are not learnt from), "kl_reference" (nats per token between the player and
        the reference), and means over the round's steps: "loss" (policy), "value_loss", "kl" (nats
        per token that the round moved the policy), "clipped" (share of ratios outside the clip),
        "grad_norm". Scores and `kept_step` count rounds, `steps` counts optimizer steps.

    Raises:
        DataError: The folders cannot be used.
        SettingsError: The weights are spread over devices.
        EtoGymError: A round has no episode to learn from.
    """
    with prepared(settings, model, output) as (tokenizer, codec):
        watch = watch or Watch()
        data = TokenReport()

        def build(loaded: Any, workspace: Path) -> PPOTrainer:
            # New adapters switched off are the model that training starts from.
            switched = settings.lora_r and not is_adapter(model)
            apart = bool(settings.kl_weight) and not switched
            trainer = PPOTrainer(
                settings,
                model=loaded,
                reference=models.load_for_training(model, settings) if apart else None,
                play=play,
                codec=codec,
                data=data,
                tokenizer=tokenizer,
                workspace=workspace,
            )
            refuse_spread(trainer, "ppo")
            return trainer

        return train(
            "ppo",
            settings,
            [],
            data,
            build=build,
            tokenizer=tokenizer,
            model=model,
            output=output,
            resume=resume,
            watch=dataclasses.replace(watch, every=watch.every or 1),
            plan=plan,
        )


class PPOTrainer(base_trainer.BaseTrainer):
    """Minimises the clipped loss of tokens and the squared error of values, round by round."""

    # The loss below is already divided by the tokens and turns of the whole optimizer batch.
    loss_is_scaled_for_ga = True
    unit = "round"
    _settings: PPOSettings

    def __init__(
        self,
        settings: PPOSettings,
        *,
        model: Any,
        reference: Any,
        play: Play,
        codec: Codec,
        data: TokenReport,
        tokenizer: Any,
        workspace: Path,
    ) -> None:
        """Give the model its adapters and a value head; `data` counts what tokenisation did.

        The reference is a copy of the model for the KL price; None where the price is 0, or where
        switching new adapters off gives the reference.
        """
        set_seed(settings.seed)
        self._settings = settings
        self.done = 0  # rounds
        self.data = data
        model = models.with_adapters(model, settings)
        remove_dropout(model)  # or ratios to what was played without it would differ from 1
        self.bare = models.bare_model(model)
        install_scorer(self.bare)
        self.head = ValueHead.added_to(self.bare)
        super().__init__(
            model=model,
            args=TrainingArguments(**_arguments(settings, workspace)),
            processing_class=tokenizer,
            callbacks=[RoundKeeper(self, every=settings.save_every)],
        )
        self.tokens_seen = 0
        self._play = play
        self._codec = codec
        self._pad_id = tokenizer.pad_token_id
        self._reference = reference
        self._round: dict[str, float] = {}  # how its episodes went
        self._steps: list[dict[str, float]] = []  # how each of its optimizer steps went
        self._notes = torch.zeros(len(NOTES), device=self.args.device)  # of the step under way
        self._ends_pass = self._ends_round = self._over = False
        self._forests = RowForests(self, self.bare, settings.share_prefix, pad_id=self._pad_id)
        self.notes = self._forests.sharing.notes
        if reference is not None:
            if not settings.qlora:
                reference.to(self.args.device)
            reference.requires_grad_(False)
            install_scorer(models.bare_model(reference))
            self._forests.sharing.follow(models.bare_model(reference))

    def progress(self) -> tuple[int, int]:
        """Return how many rounds are done, and how many there are."""
        return self.done, self._settings.rounds

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Build the optimizer; the value head has a learning rate of its own."""
        if self.optimizer is None:
            optimizer = build_optimizer(model or self.model, self._settings)
            own = {id(weight) for weight in self.head.parameters()}
            for group in optimizer.param_groups:
                group["params"] = [weight for weight in group["params"] if id(weight) not in own]
            head = {"params": list(self.head.parameters()), "weight_decay": 0.0}
            optimizer.add_param_group({**head, "lr": self._settings.value_learning_rate})
            self.optimizer = optimizer
        return self.optimizer

    # --- playing ---------------------------------------------------------------------------------

    def get_train_dataloader(self) -> Any:
        """Return the micro-batches of this process; a round is played when its first is asked for.

        Every process holds the scored episodes of all, so all deal the same batches without a word.
        """
        s = self._settings
        while self.done < s.rounds:
            played = self._play_round()
            self._steps, self._over = [], False
            for turn in range(int(s.epochs)):
                steps = self._optimizer_batches(len(played), turn)
                for number, step in enumerate(steps, start=1):
                    # The optimizer's step comes after the last micro-batch, and reads these two.
                    self._ends_pass = number == len(steps)
                    self._ends_round = self._ends_pass and turn + 1 == int(s.epochs)
                    yield from self._deal([played[i] for i in step])
                if self._over:
                    break

    def _optimizer_batches(self, episodes: int, turn: int) -> list[list[int]]:
        """Return the episodes of each optimizer step of a pass over a round."""
        order = list(range(episodes))
        random.Random(f"{self._settings.seed}:{self.done}:{turn}").shuffle(order)
        return list(cut(order, self._settings.batch_size))

    def _play_round(self) -> list[Played]:
        """Play together with the other processes, with the seeds that one process would give."""
        s, rank, world = self._settings, self.args.process_index, self.args.world_size
        part = range(rank * s.episodes // world, (rank + 1) * s.episodes // world)
        with without_dropout(self.model):
            trajectories = self._play(self.bare, self._codec, self.done, part)
        whole = [t for t in trajectories if t.scored]
        encoded, report = encode_sampled(
            self._codec, whole, max_length=s.max_length, truncation=s.truncation
        )
        marked = self._marked(whole)
        kept = [
            (episode.rows, turn_rewards(trajectory, episode.turns), seen)
            for trajectory, episode, seen in zip(whole, encoded, marked, strict=True)
            if episode.rows
        ]
        self._forests.decide([rows for rows, *_ in kept], s.micro_batch_size)
        flat = iter(self.score([row for rows, *_ in kept for row in rows]))
        scores = [joined([next(flat) for _ in rows]) for rows, *_ in kept]
        # What every process has, in their order.
        failed = Counter(gather_object([str(t.error) for t in trajectories if not t.scored]))
        results = gather_object([(t.success, t.reward, len(t.steps)) for t in whole])
        episodes = gather_object([(*one, score) for one, score in zip(kept, scores, strict=True)])
        for other in gather_object([report]):
            self.data.include(other)
        if not episodes:
            raise EtoGymError(f"round {self.done + 1} has no episode to learn from: {dict(failed)}")
        rows, rewards, seen, said = ([episode[i] for episode in episodes] for i in range(4))
        # Now by the episodes of all: every process must deal the same batches.
        steps = self._optimizer_batches(len(rows), 0)
        self._forests.decide(rows, self.args.per_device_train_batch_size, steps)
        credit = own_credit(seen, s.advantage, discount=s.advantage_discount)
        played, moved = estimate(rows, rewards, said, s, credit)
        means = [sum(column) / len(results) for column in zip(*results, strict=True)]
        self._round = {
            **dict(zip(("success", "reward", "turns"), means, strict=True)),
            "errors": failed.total(),
            "kl_reference": moved,
        }
        return played

    def _marked(self, episodes: Sequence[Trajectory]) -> list[Credited]:
        """Return episodes as credit sees them, with marks of their states where it reads any."""
        method = self._settings.advantage
        marks: list[tuple[Mark, ...]] = [() for _ in episodes]
        if method != "turn":
            if not isinstance(self._play, EpisodePlayer):
                raise SettingsError(
                    f"advantage {method!r} repeats episodes to see their states: expected play to "
                    f"be an EpisodePlayer, got {type(self._play).__name__}"
                )
            env = self._play.conversation()
            try:
                marks = [mark_states(env, t, method) for t in episodes]
            finally:
                env.close()
        return [
            Credited(t.task_id, t.reward, tuple(step.reward for step in t.steps), mark)
            for t, mark in zip(episodes, marks, strict=True)
        ]

    def _deal(self, batch: list[Played]) -> Iterator[dict[str, Any]]:
        """Yield this process's micro-batches of an optimizer batch, for every process as many.

        The tokens of a micro-batch are (R, T), all rows of its episodes; what is said of its N
        trained tokens, or of its turns, is one vector over all rows.
        """
        args, size = self.args, self.args.per_device_train_batch_size
        order = self._forests.order([episode.rows for episode in batch], range(len(batch)))
        tokens = sum(len(episode.scores.logps) for episode in batch)
        turns = sum(len(episode.returns) for episode in batch)
        parts = [[batch[i] for i in part] for part in cut(order, size)]
        own = parts[args.process_index :: args.world_size]
        for part in own:
            rows = [row for episode in part for row in episode.rows]
            self.tokens_seen += sum(len(row.ids) for row in rows)
            yield {
                **(self._forests.tree(rows) if self._forests.on else self._forests.padded(rows)),
                "logps": torch.cat([e.scores.logps for e in part]),
                "advantages": torch.cat([e.advantages[turns_of(e.rows)] for e in part]),
                "values": torch.cat([e.scores.values for e in part]),
                "returns": torch.cat([e.returns for e in part]),
                "tokens": tokens,
                "turns": turns,
            }
        # What does not count, as little as a model takes: every process makes as many passes.
        filler = self._forests.padded([TokenRow(batch[0].rows[0].ids[:2], [False, True])])
        for _ in range(args.gradient_accumulation_steps - len(own)):
            yield {**filler, "filler": True}

    # --- scoring ---------------------------------------------------------------------------------

    def score(self, rows: Sequence[TokenRow]) -> list[Scores]:
        """Score rows with the policy, its value head and the reference, without gradients."""

        def by(model: Any, rows: Sequence[TokenRow]) -> list[tuple[torch.Tensor, Any]]:
            if self._forests.on:
                return self._forests.by_tree(model, rows)
            return self._forests.by_length(model, rows, 2 * self._settings.micro_batch_size)

        with without_dropout(self.model):
            own = by(self.model, rows)
            if not self._settings.kl_weight:
                references: list[Any] = [(None, None)] * len(rows)
            elif self._reference is not None:
                with without_dropout(self._reference):
                    references = by(self._reference, rows)
            else:
                with self.model.disable_adapter():
                    references = by(self.model, rows)
        return [
            Scores(logps, values, reference)
            for (logps, values), (reference, _) in zip(own, references, strict=True)
        ]

    # --- learning --------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        """Return this micro-batch's share of the batch's loss, and note the metrics."""
        s = self._settings
        with activations_of(self.model, self.args.device, offload=s.activation_offload):
            logps, values = self._scores(model, inputs)
        if "filler" in inputs:  # keeps this process in step with the others, and adds nothing
            nothing: torch.Tensor = 0.0 * (logps.sum() + values.sum())
            return nothing
        old, tokens, turns = inputs["logps"], inputs["tokens"], inputs["turns"]
        losses, outside = policy_losses(logps, old, inputs["advantages"], s.clip)
        errors = value_losses(values, inputs["values"], inputs["returns"], s.value_clip)
        policy, value = losses.sum() / tokens, errors.sum() / turns
        moved = divergence(logps, old).sum() / tokens
        self._notes += torch.stack([policy, value, moved, outside.sum() / tokens]).detach()
        # Gradients are averaged over devices, and the sum is wanted.
        loss: torch.Tensor = (policy + s.value_weight * value) * self.args.world_size
        return loss

    def _scores(self, model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, Any]:
        if "tree" in inputs:
            return score_tokens(model, inputs)
        scores = model(input_ids=inputs["input_ids"], score=inputs["score"])
        return scores["token_logps"], scores["values"]

    def end_step(self) -> bool:
        """Take stock of an optimizer step; return whether it ends a round."""
        totals = self.accelerator.reduce(self._notes, reduction="sum").tolist()
        self._notes.zero_()
        self._steps.append(dict(zip(NOTES, totals, strict=True)))
        moved = self._ends_pass and 0 < self._settings.target_kl < self._steps[-1]["kl"]
        self._over = moved or self._ends_round or self.state.global_step >= self.state.max_steps
        self.done += self._over
        return self._over

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Report rounds, where transformers reports steps: the means of the steps of each."""
        sound = all(math.isfinite(logs.get(name, 0.0)) for name in ("loss", "grad_norm"))
        if "loss" not in logs or not sound:  # how long all took, or what a guard stops at here
            super().log(logs, start_time)
            return
        self._steps[-1]["grad_norm"] = logs["grad_norm"]
        due = self.done % self._settings.log_every == 0 or self.control.should_save
        if not self._over or not (due or self.control.should_training_stop):
            return
        means = {
            name: sum(step[name] for step in self._steps) / len(self._steps)
            for name in (*NOTES, "grad_norm")
        }
        self.state.epoch = float(self.done)
        entry = {**self._round, **means, "learning_rate": logs["learning_rate"]}
        super().log(entry, start_time)


def _arguments(settings: PPOSettings, workspace: Path) -> dict[str, Any]:
    """Return the keyword arguments of `TrainingArguments`; the rounds decide when to save."""
    steps = -(-settings.episodes // settings.batch_size) * int(settings.epochs) * settings.rounds
    return {
        **base_trainer.training_arguments(settings, workspace),
        "max_steps": min(steps, settings.max_steps or steps),
        "logging_steps": 1,
        "save_strategy": "no",
        "ignore_data_skip": True,  # a checkpoint is from between two rounds
    }
