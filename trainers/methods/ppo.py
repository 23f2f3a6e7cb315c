"""PPO on whole episodes: the paper's reinforcement-learning baseline.

Sources: Schulman et al., "Proximal Policy Optimization Algorithms", 2017
(https://arxiv.org/abs/1707.06347), with generalised advantage estimation
(https://arxiv.org/abs/1506.02438); as a baseline, the ETO paper (https://arxiv.org/abs/2403.02502).

transformers' Trainer goes around the rounds of `ppo_rounds`: the model with its value head learns
from what they play, by the losses of `ppo_losses`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_callback import ExportableState

from eto_gym.agents.models.adapters import is_adapter
from eto_gym.trainers.data.batching import pad_rows
from eto_gym.trainers.data.encoding import Codec, TokenReport, TokenRow
from eto_gym.trainers.methods.player import Play
from eto_gym.trainers.methods.ppo_losses import (
    ValueHead,
    divergence,
    policy_losses,
    turn_starts,
    value_losses,
)
from eto_gym.trainers.methods.ppo_rounds import Rounds, Scores
from eto_gym.trainers.model import models
from eto_gym.trainers.model.offload import activations_of
from eto_gym.trainers.model.optimizers import build_optimizer
from eto_gym.trainers.model.scoring import VALUE_HEAD, install_scorer, without_dropout
from eto_gym.trainers.model.sharding import refuse_spread
from eto_gym.trainers.model.weights import load_weights, save_weights
from eto_gym.trainers.run import base_trainer
from eto_gym.trainers.run.training import TrainReport, train
from eto_gym.trainers.run.watch import Watch, prepared
from eto_gym.trainers.settings.methods import PPOSettings

HEAD_FILE = "value_head.safetensors"
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
        """Prepare the model, its value head, and transformers' Trainer around them.

        Args:
            settings: How to learn.
            model: What learns, without new adapters.
            reference: A copy of the model for the KL price; None where the price is 0, or where
                switching new adapters off gives the reference.
            play: Plays the episodes of a round.
            codec: Tokenises them.
            data: Where what tokenisation did is counted.
            tokenizer: The model's.
            workspace: Where checkpoints go.
        """
        set_seed(settings.seed)
        self._settings = settings
        model = models.with_adapters(model, settings)
        self.bare = models.bare_model(model)
        install_scorer(self.bare)
        head = ValueHead(self.bare.config.get_text_config().hidden_size)
        self.head = head.to(self.bare.get_input_embeddings().weight.device)
        # A part of the model: it is moved, wrapped for several devices and clipped with the rest.
        self.bare.add_module(VALUE_HEAD, self.head)
        self.rounds = Rounds(settings, play, codec, self, tokenizer.pad_token_id, data)
        super().__init__(
            model=model,
            args=TrainingArguments(**_arguments(settings, workspace)),
            train_dataset=self.rounds,
            processing_class=tokenizer,
            callbacks=[RoundKeeper(self, every=settings.save_every)],
        )
        self._pad_id = tokenizer.pad_token_id
        self._notes = torch.zeros(len(NOTES), device=self.args.device)
        self._steps: list[dict[str, float]] = []
        self._reference = reference
        if reference is not None:
            if not settings.qlora:
                reference.to(self.args.device)
            reference.requires_grad_(False)
            install_scorer(models.bare_model(reference))

    @property
    def tokens_seen(self) -> int:
        """Tokens of the rows that this process has learnt from."""
        return self.rounds.tokens_seen

    def progress(self) -> tuple[int, int]:
        """Return how many rounds are done, and how many there are."""
        return self.rounds.done, self._settings.rounds

    def get_train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the micro-batches of all rounds, one by one."""
        # With a generator of its own, it draws nothing from that of dropout.
        return DataLoader(self.rounds, batch_size=None, generator=torch.Generator())

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Build the optimizer; the value head has a learning rate of its own."""
        if self.optimizer is None:
            optimizer = build_optimizer(model or self.model, self._settings)
            own = {id(weight) for weight in self.head.parameters()}
            for group in optimizer.param_groups:
                group["params"] = [weight for weight in group["params"] if id(weight) not in own]
            optimizer.add_param_group(
                {
                    "params": list(self.head.parameters()),
                    "lr": self._settings.value_learning_rate,
                    "weight_decay": 0.0,
                }
            )
            self.optimizer = optimizer
        return self.optimizer

    # --- scoring ---------------------------------------------------------------------------------

    def score(self, rows: Sequence[TokenRow]) -> list[Scores]:
        """Score rows with the policy, its value head and the reference, without gradients."""
        with without_dropout(self.model):
            own = self._by_length(self.model, rows)
            if not self._settings.kl_weight:
                references: list[Any] = [(None, None)] * len(rows)
            elif self._reference is not None:
                with without_dropout(self._reference):
                    references = self._by_length(self._reference, rows)
            else:
                with self.model.disable_adapter():
                    references = self._by_length(self.model, rows)
        return [
            Scores(logps, values, reference)
            for (logps, values), (reference, _) in zip(own, references, strict=True)
        ]

    @torch.no_grad()
    def _by_length(self, model: Any, rows: Sequence[TokenRow]) -> list[tuple[torch.Tensor, Any]]:
        """Score rows in order of length; return log-probabilities and values in the given order."""
        scores: list[Any] = [None] * len(rows)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
        size = 2 * self._settings.micro_batch_size
        for start in range(0, len(order), size):
            chunk = order[start : start + size]
            batch = pad_rows([rows[i] for i in chunk], self._pad_id)
            labels = batch["labels"].to(self.args.device)
            with self.accelerator.autocast():
                found = model(input_ids=batch["input_ids"].to(self.args.device), score=labels)
            logps = found["token_logps"].cpu().split([rows[i].trained for i in chunk])
            values: Sequence[Any] = [None] * len(chunk)
            if "values" in found:
                turns = turn_starts(batch["labels"]).sum(1)
                values = found["values"].cpu().split(turns.tolist())
            for i, one, value in zip(chunk, logps, values, strict=True):
                scores[i] = (one, value)
        return scores

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
            scores = model(input_ids=inputs["input_ids"], score=inputs["score"])
        logps, values = scores["token_logps"], scores["values"]
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

    def end_step(self) -> bool:
        """Take stock of an optimizer step; return whether it ends a round."""
        totals = self.accelerator.reduce(self._notes, reduction="sum").tolist()
        self._notes.zero_()
        if self.rounds.over:
            self._steps = []
        self._steps.append(dict(zip(NOTES, totals, strict=True)))
        last = self.state.global_step >= self.state.max_steps
        return self.rounds.end_step(self._steps[-1]["kl"], last=last)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Report rounds, where transformers reports steps: the means of the steps of each."""
        sound = all(math.isfinite(logs.get(name, 0.0)) for name in ("loss", "grad_norm"))
        if "loss" not in logs or not sound:  # how long all took, or what a guard stops at here
            super().log(logs, start_time)
            return
        self._steps[-1]["grad_norm"] = logs["grad_norm"]
        due = self.rounds.done % self._settings.log_every == 0 or self.control.should_save
        if not self.rounds.over or not (due or self.control.should_training_stop):
            return
        means = {
            name: sum(step[name] for step in self._steps) / len(self._steps)
            for name in (*NOTES, "grad_norm")
        }
        self.state.epoch = float(self.rounds.done)
        entry = {**self.rounds.entry, **means, "learning_rate": logs["learning_rate"]}
        super().log(entry, start_time)

    # --- checkpoints -----------------------------------------------------------------------------

    def load_rounds(self, folder: Path) -> None:
        """Go on from the round of a checkpoint, whose weights are loaded already."""
        load_weights(self.head, folder / HEAD_FILE)
        kept: Any = self.state.stateful_callbacks
        self.rounds.restore(kept[RoundKeeper.__name__]["attributes"])

    def drop_head(self) -> None:
        """Take the value head off the model, which is then one as any other."""
        if hasattr(self.bare, VALUE_HEAD):
            delattr(self.bare, VALUE_HEAD)


class RoundKeeper(TrainerCallback, ExportableState):
    """Ends steps as rounds demand, and keeps in checkpoints what transformers does not know of."""

    def __init__(self, trainer: PPOTrainer, *, every: int) -> None:
        """Prepare; `every` is the number of rounds between checkpoints, 0: only the last."""
        self._trainer = trainer
        self._every = every

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"args": {}, "attributes": self._trainer.rounds.state()}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Go on from a checkpoint."""
        if state.global_step:
            self._trainer.load_rounds(_checkpoint(args, state))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Save after every so many rounds, and after the last."""
        if self._trainer.end_step():
            done, total = self._trainer.progress()
            control.should_training_stop |= done == total
            due = self._every > 0 and done % self._every == 0
            control.should_save = control.should_training_stop or due

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Add the value head to a checkpoint; one of adapters has them alone."""
        if state.is_world_process_zero:
            save_weights(self._trainer.head, _checkpoint(args, state) / HEAD_FILE)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Leave the model without the value head."""
        self._trainer.drop_head()


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


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
