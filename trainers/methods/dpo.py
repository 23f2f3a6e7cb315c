"""Trajectory DPO: whole episodes as preferences, and only the agent's own tokens count.

Rows come tokenised, with a mask, so that observations do not count; the loss is computed from the
log-probabilities of masked tokens, and the reference is scored once, before training, with the
model itself. What the sides of a micro-batch share at their beginnings is computed once, where the
model allows it. On transformers' Trainer, as SFT is: docs/decisions.md says why not on TRL's.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch.utils.data import DataLoader
from transformers import TrainingArguments, set_seed

from eto_gym.trainers.data.batching import BucketSampler
from eto_gym.trainers.data.encoding import Codec, TokenPair, TokenRow, encode_pairs
from eto_gym.trainers.data.trees import score_tree
from eto_gym.trainers.methods.kto_origin import Origin
from eto_gym.trainers.methods.preference_losses import (
    balanced,
    check_sides,
    log_ratios,
    preference_losses,
    turn_weights,
)
from eto_gym.trainers.model import reference, reference_model, sharding
from eto_gym.trainers.model.layout import lay_out
from eto_gym.trainers.model.models import bare_model, uses_bf16, with_adapters
from eto_gym.trainers.model.offload import activations_of
from eto_gym.trainers.model.scoring import install_scorer, remove_dropout, row_sums, without_dropout
from eto_gym.trainers.run import base_trainer, row_layout
from eto_gym.trainers.run.training import TrainReport, train
from eto_gym.trainers.run.watch import Watch, prepared
from eto_gym.trainers.settings.base import SettingsError
from eto_gym.trainers.settings.methods import DPOSettings
from eto_gym.trajectories.pairs import PreferencePair


def run_dpo(
    settings: DPOSettings,
    pairs: Sequence[PreferencePair],
    *,
    model: str | Path,
    output: str | Path,
    codec: Codec | None = None,
    resume: bool = False,
    watch: Watch | None = None,
) -> TrainReport:
    """Train a model to prefer the chosen continuations, with itself as the reference.

    Args:
        settings: How to train.
        pairs: What to prefer to what; for the loss "kto" also single sides.
        model: Folder or hub name of a causal language model, or folder of an adapter;
            it is the reference too.
        output: Folder of the new model: safetensors, tokenizer, and the report as `training.json`.
            It appears only when it is complete.
        codec: Tokenises conversations; by default the model's own chat template does.
        resume: Go on from the last whole checkpoint of a killed run; a finished run is not
            repeated. By default a run starts anew.
        watch: Progress, scores during training, early stopping; by default a progress bar only.

    Returns:
        The report. Its metrics have, beside the usual ones, "rewards/chosen" and "rewards/rejected"
        (beta times the log-ratio to the reference), "rewards/margins" (their difference),
        "rewards/accuracies" (how often it is positive), "logps/chosen" and "logps/rejected" (summed
        over the trained tokens of a side).

    Raises:
        DataError: The data, or the folders, cannot be used; the message says why.
    """
    check_sides(pairs, settings.loss)
    with prepared(settings, model, output, codec) as (tokenizer, codec):
        rows, data = encode_pairs(
            codec,
            pairs,
            max_length=settings.max_length,
            truncation=settings.truncation,
        )
        settings = balanced(settings.for_data(data.rows, data.tokens), rows)

        def build(loaded: Any, workspace: Path) -> TrajectoryDPOTrainer:
            return TrajectoryDPOTrainer(
                settings,
                model=loaded,
                rows=rows,
                tokenizer=tokenizer,
                workspace=workspace,
                source=model,
            )

        return train(
            "dpo",
            settings,
            rows,
            data,
            build=build,
            tokenizer=tokenizer,
            model=model,
            output=output,
            resume=resume,
            watch=watch,
        )


class TrajectoryDPOTrainer(base_trainer.BaseTrainer):
    """Minimises the mean preference loss of the pairs of each optimizer batch."""

    # The loss below is already divided by the pairs of the whole optimizer batch.
    loss_is_scaled_for_ga = True
    _settings: DPOSettings

    def __init__(
        self,
        settings: DPOSettings,
        *,
        model: Any,
        rows: Sequence[TokenPair],
        tokenizer: Any,
        workspace: Path,
        source: str | Path | None = None,
    ) -> None:
        """Prepare the model, the reference, and transformers' Trainer around them.

        Args:
            settings: How to train.
            model: The loaded model.
            rows: The pairs.
            tokenizer: The model's tokenizer.
            workspace: Folder for checkpoints.
            source: Where the model was loaded from, if that is not the name that it bears; a
                reference that stays in memory is loaded from there.

        Raises:
            SettingsError: This process sees several GPUs, or a setting cannot be had.
        """
        self._settings = settings
        self._rows = rows
        self._workspace = workspace
        self._pad_id = tokenizer.pad_token_id
        self.tokens_seen = 0
        self._origin = Origin() if settings.loss == "kto" else None
        self._noted: dict[str, list[float]] = defaultdict(list)
        adapted = hasattr(model, "peft_config")
        inner = bare_model(model)
        install_scorer(inner)
        base_trainer.spare_memory(inner, settings)
        self._lengths = [max(sum(len(r.ids) for r in side) for side in row.sides) for row in rows]
        self._layout = row_layout.choose(
            inner,
            settings,
            [[row for side in pair.sides for row in side] for pair in rows],
            self._lengths,
            make=self._sampler,
        )
        self.notes = {"share_prefix": self._layout.note}
        args = TrainingArguments(**base_trainer.training_arguments(settings, workspace))
        super().__init__(
            model=_prepared(model, settings, args),
            args=args,
            data_collator=self._collate,
            train_dataset=[{"index": index} for index in range(len(rows))],
            processing_class=tokenizer,
        )
        if args.n_gpu > 1:
            raise SettingsError(
                f"one process sees {args.n_gpu} GPUs: start one for each, by `accelerate launch`, "
                "or let it see one, by CUDA_VISIBLE_DEVICES"
            )
        if self._origin is not None:
            self.add_callback(self._origin)
        self._prepare_reference(source or inner.config._name_or_path)
        if adapted:
            reference_model.settle_adapter(self.model, scored=settings.precompute_reference)

    def _prepare_reference(self, source: str | Path) -> None:
        """Score the reference, or have it at hand while training."""
        once = self._settings.precompute_reference
        self.ref_model: Any = None
        self._engine: Any = None
        # FSDP spreads the policy only to train; before that, no device need be able to hold it.
        if not hasattr(self.model, "peft_config") and (self.is_fsdp_enabled or not once):
            self.ref_model = reference_model.second_model(self, source, self._settings)
            # It may be within an engine of DeepSpeed.
            install_scorer(self.accelerator.unwrap_model(self.ref_model))
        if once:
            self._score_all()
            self.ref_model = None

    # --- data ------------------------------------------------------------------------------------

    def _collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        rows = [self._rows[item["index"]] for item in items]
        batch = self._batch([row.sides[0] for row in rows] + [row.sides[1] for row in rows])
        for name in ("ref_chosen_logps", "ref_rejected_logps"):
            if name in items[0]:
                batch[name] = torch.tensor([item[name] for item in items])
        return batch

    def _batch(self, sides: Sequence[tuple[TokenRow, ...]]) -> dict[str, Any]:
        """Lay out the rows of some sides; "owners" names the side of each row, if not its own.

        A side that is missing has no rows.
        """
        rows = [row for side in sides for row in side]
        batch = lay_out(rows, trees=self._layout.trees, pad_id=self._pad_id)
        if any(len(side) != 1 for side in sides):
            owners = torch.tensor([i for i, side in enumerate(sides) for _ in side])
            batch["owners"] = owners
        if self._settings.loss == "dmpo":
            weights = [turn_weights(side, self._settings.turn_discount) for side in sides]
            batch["weights"] = torch.cat(weights)  # (N,), one for each trained token of each row
        batch["side_tokens"] = torch.tensor([sum(row.trained for row in side) for side in sides])
        return batch

    def get_train_dataloader(self) -> DataLoader[dict[str, torch.Tensor]]:
        """Return batches of pairs of similar length."""
        return base_trainer.bucket_loader(
            self, self._lengths, self._settings, ranks=self._layout.ranks, make=self._sampler
        )

    def _sampler(self, lengths: list[int], **keywords: Any) -> BucketSampler:
        """Return what deals the rows."""
        return BucketSampler(lengths, **keywords)

    def _get_num_items_in_batch(
        self, batch_samples: list[dict[str, Any]], device: torch.device
    ) -> torch.Tensor:
        """Count the pairs of one optimizer batch, over all devices."""
        real = [batch for batch in batch_samples if "filler" not in batch]
        pairs = sum(len(batch["side_tokens"]) // 2 for batch in real)
        self.tokens_seen += sum(int(batch["tokens"]) for batch in real)
        total = torch.tensor(pairs, device=device)
        if self.args.world_size > 1:
            total = self.accelerator.gather(total).sum()
        return total

    # --- the reference ---------------------------------------------------------------------------

    def _score_all(self) -> None:
        """Score every side once, or read the scores of an earlier run with this model and data."""
        sides = [side for row in self._rows for side in row.sides]
        precision = "bf16" if uses_bf16(self._settings) else "fp32"
        if self._settings.loss == "dmpo":
            precision += f":dmpo:{self._settings.turn_discount}"
        path = reference.reference_file(
            self._settings.reference_cache,
            self._workspace,
            reference.reference_key(self.model, self._rows, precision),
        )
        scores = reference.load_scores(path, len(sides))
        self.notes["reference"] = "computed" if scores is None else "cached"
        if scores is None:
            scores = self._reference_scores(sides, 4 * self.args.per_device_train_batch_size)
            if self.is_world_process_zero():
                reference.save_scores(path, scores)
        pairs = zip(scores[0::2].tolist(), scores[1::2].tolist(), strict=True)
        self.train_dataset = [
            {"index": index, "ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
            for index, (chosen, rejected) in enumerate(pairs)
        ]

    def _reference_scores(
        self, sides: Sequence[tuple[TokenRow, ...]], batch_size: int
    ) -> torch.Tensor:
        """Score sides in an order in which neighbours share most, or are of similar length."""
        scores = torch.zeros(len(sides))
        order = sorted(
            (i for i, side in enumerate(sides) if side),
            key=lambda i: (
                sides[i][0].ids if self._layout.trees else [sum(len(r.ids) for r in sides[i])]
            ),
        )
        with self._on_device():
            for start in range(0, len(order), batch_size):
                chunk = order[start : start + batch_size]
                batch = self._prepare_inputs(self._batch([sides[i] for i in chunk]))
                scores[chunk] = self._score_reference(batch).cpu()
        return scores

    @contextlib.contextmanager
    def _on_device(self) -> Iterator[None]:
        """Have the policy on the device, where FSDP or DeepSpeed bring it only to train."""
        if self.is_deepspeed_enabled:
            self._engine = sharding.scoring_engine(self.model, self.accelerator)
            yield
            self._engine = None
            return
        home = next(self.model.parameters()).device
        if self.ref_model is not None or home == self.args.device:
            yield
            return
        self.model.to(self.args.device)
        yield
        self.model.to(home)

    def _score_reference(self, batch: dict[str, Any]) -> torch.Tensor:
        with (
            torch.no_grad(),
            reference_model.without_checkpointing(
                self.model, getattr(self.args, f"{base_trainer.CHECKPOINTING}_kwargs")
            ),
            self.accelerator.autocast(),
            without_dropout(self.model),
            self._reference() as model,
        ):
            return _side_sums(model, batch)

    @contextlib.contextmanager
    def _reference(self) -> Iterator[Any]:
        """Yield the model whose adapters are those of the reference, or the reference itself."""
        if self.ref_model is not None:
            yield self.ref_model
        elif hasattr(self.model, "peft_config"):
            with reference_model.reference_adapters(self.accelerator.unwrap_model(self.model)):
                yield self._engine or self.model
        else:
            yield self._engine or self.model

    # --- the loss --------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        """Return this micro-batch's share of the batch's mean loss, and note the metrics."""
        offload = self._settings.activation_offload
        with activations_of(self.model, self.args.device, offload=offload):
            sums = _side_sums(model, inputs)
        if "ref_chosen_logps" in inputs:
            scores = torch.cat([inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]])
        else:
            scores = self._score_reference(inputs)
        tokens = inputs["side_tokens"]
        there = tokens > 0
        losses = self._losses(sums, scores, tokens, inputs)
        if "filler" in inputs:
            losses = 0.0 * sums  # keeps this process in step with the others, and adds nothing
        elif self._origin is not None:
            self._origin.note(log_ratios(sums.detach(), scores, tokens, self._settings)[there])
        self._note(sums.detach(), scores, there, real="filler" not in inputs)
        # Gradients are averaged over devices, and the sum is wanted.
        loss: torch.Tensor = losses.sum() / num_items_in_batch * self.args.world_size
        return loss

    def _losses(
        self,
        sums: torch.Tensor,
        reference: torch.Tensor,
        tokens: torch.Tensor,
        inputs: dict[str, Any],
    ) -> torch.Tensor:
        """Return the loss of every pair; `inputs` is the batch, for methods that weigh pairs."""
        return preference_losses(sums, reference, tokens, self._settings, self.origin)

    @property
    def origin(self) -> float:
        """The log-ratio that KTO compares sides with; 0 for other losses."""
        return 0.0 if self._origin is None else self._origin.value

    def _note(
        self, sums: torch.Tensor, reference: torch.Tensor, there: torch.Tensor, *, real: bool
    ) -> None:
        rewards = self._settings.beta * (sums - reference)
        names = ("logps/chosen", "logps/rejected", "rewards/chosen", "rewards/rejected")
        columns = [*sums.chunk(2), *rewards.chunk(2), *there.chunk(2)]  # each (P,)
        rows = torch.stack(columns, dim=1).tolist() if real else []
        if self.args.world_size > 1:
            rows = gather_object(rows)  # processes may hold different numbers of pairs
        for row in rows:
            both = row[4:]
            for name, value, known in zip(names, row, both * 2, strict=False):
                if known:
                    self._noted[name].append(value)
            if not all(both):
                continue
            margin = row[2] - row[3]
            self._noted["rewards/margins"].append(margin)
            self._noted["rewards/accuracies"].append(float(margin > 0))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the means over all pairs since the last entry."""
        logs |= {name: sum(values) / len(values) for name, values in self._noted.items()}
        super().log(logs, start_time)
        self._noted.clear()


def _prepared(model: Any, settings: DPOSettings, args: TrainingArguments) -> Any:
    """Return the model as it is trained: with its adapters, and without dropout."""
    set_seed(settings.seed)  # for new adapters
    adapted = hasattr(model, "peft_config")
    options: dict[str, Any] = {}
    if sharding.is_zero3(args) and not settings.qlora:
        # ZeRO 3 brings the weights of a layer together in one precision.
        options["autocast_adapter_dtype"] = False
    model = with_adapters(model, settings, **options)
    if adapted:
        reference_model.copy_adapter(model)
    if settings.gradient_checkpointing and settings.lora_r and sharding.is_zero3(args):
        # The other kind fails where adapters are all that is trained.
        setattr(args, f"{base_trainer.CHECKPOINTING}_kwargs", {"use_reentrant": True})
    if settings.qlora:
        for weight in model.parameters():
            if weight.requires_grad:  # as QLoRA's authors train adapters, and as TRL does
                weight.data = weight.data.to(torch.bfloat16)
    remove_dropout(model)  # policy and reference are to differ by learning alone
    return model


def _side_sums(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Return the summed log-probability of the trained tokens of each side, weighed if so."""
    if "tree" in batch:
        sums = score_tree(model, batch)
    else:
        outputs = model(input_ids=batch["input_ids"], score=batch["labels"])
        logps = outputs["token_logps"]
        if "weights" in batch:
            logps = logps * batch["weights"].to(logps.device)
        sums = row_sums(logps, batch["labels"])
    if "owners" not in batch:
        return sums
    sides = sums.new_zeros(len(batch["side_tokens"]))
    return sides.index_add(0, batch["owners"], sums)
