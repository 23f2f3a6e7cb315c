"""Trajectory DPO: whole episodes as preferences, and only the agent's own tokens count.

Around TRL's DPOTrainer, which marks everything after the prompt as completion, observations
included. Here rows come tokenised, with a mask; the loss is computed from the log-probabilities of
masked tokens, and the reference is scored once, before training, with the model itself. What the
sides of a micro-batch share at their beginnings is computed once, where the model allows it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch.utils.data import DataLoader

from eto_gym.trainers.data.batching import BucketSampler
from eto_gym.trainers.data.encoding import Codec, TokenPair, TokenRow, encode_pairs
from eto_gym.trainers.data.trees import score_tree
from eto_gym.trainers.methods.kto_origin import Origin
from eto_gym.trainers.methods.preference_losses import check_sides, preference_losses, turn_weights
from eto_gym.trainers.model import reference
from eto_gym.trainers.model.layout import choose_layout, lay_out
from eto_gym.trainers.model.models import bare_model, lora_config, uses_bf16
from eto_gym.trainers.model.offload import activations_of
from eto_gym.trainers.model.scoring import install_scorer, row_sums, without_dropout
from eto_gym.trainers.model.tree_attention import install_trees
from eto_gym.trainers.run import base_trainer
from eto_gym.trainers.run.training import TrainReport, train
from eto_gym.trainers.run.trl import QuietTRL, check_trl
from eto_gym.trainers.run.watch import Watch, prepared
from eto_gym.trainers.settings.methods import DPOSettings
from eto_gym.trajectories.pairs import PreferencePair

check_trl("DPO")

from trl.models.utils import disable_gradient_checkpointing, prepare_deepspeed  # noqa: E402
from trl.trainer import dpo_trainer as trl_dpo  # noqa: E402
from trl.trainer.dpo_config import DPOConfig  # noqa: E402
from trl.trainer.dpo_trainer import DPOTrainer  # noqa: E402
from trl.trainer.utils import use_adapter  # noqa: E402


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
        MissingDependencyError: The installed TRL is not the version that this code was made for.
    """
    check_sides(pairs, settings.loss)
    with prepared(settings, model, output, codec) as (tokenizer, codec):
        rows, data = encode_pairs(
            codec,
            pairs,
            max_length=settings.max_length,
            truncation=settings.truncation,
        )

        def build(loaded: Any, workspace: Path) -> TrajectoryDPOTrainer:
            return TrajectoryDPOTrainer(
                settings, model=loaded, rows=rows, tokenizer=tokenizer, workspace=workspace
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


class TrajectoryDPOTrainer(QuietTRL, base_trainer.BaseTrainer, DPOTrainer):
    """Minimises the mean preference loss of the pairs of each optimizer batch."""

    # The loss below is already divided by the pairs of the whole optimizer batch.
    loss_is_scaled_for_ga = True
    _settings: DPOSettings
    _signature_columns: Any

    def __init__(
        self,
        settings: DPOSettings,
        *,
        model: Any,
        rows: Sequence[TokenPair],
        tokenizer: Any,
        workspace: Path,
    ) -> None:
        """Prepare the model, the reference, and TRL's trainer around them."""
        self._settings = settings
        self._rows = rows
        self._workspace = workspace
        self.tokens_seen = 0
        self._origin = Origin() if settings.loss == "kto" else None
        adapted = hasattr(model, "peft_config")
        inner = bare_model(model)
        install_scorer(inner)
        self._trees, layout = choose_layout(inner, settings.share_prefix)
        self.notes = {"share_prefix": layout}
        with _without_hash():
            super().__init__(
                model=model,
                args=DPOConfig(
                    **base_trainer.training_arguments(settings, workspace),
                    beta=settings.beta,
                    max_length=None,
                    precompute_ref_log_probs=settings.precompute_reference,
                ),
                data_collator=self._collate,
                train_dataset=Dataset.from_dict({"index": list(range(len(rows)))}),
                processing_class=tokenizer,
                peft_config=lora_config(settings) if settings.lora_r and not adapted else None,
            )
        if self._origin is not None:
            self.add_callback(self._origin)
        self._equip_reference()
        if adapted:
            self._settle_reference_adapter()

    def _equip_reference(self) -> None:
        """Let the reference model, where there is one, score as the policy does."""
        if self.ref_model is not None:
            inner = self.accelerator.unwrap_model(self.ref_model)  # of an engine of DeepSpeed
            install_scorer(inner)
            if self._trees:
                install_trees(inner)

    def _settle_reference_adapter(self) -> None:
        """Free the copy of the adapter that TRL made as the reference, or keep it frozen."""
        if self._settings.precompute_reference:
            self.model.delete_adapter("ref")
            return
        for name, parameter in self.model.named_parameters():
            if ".ref." in name:
                parameter.requires_grad_(False)

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
        batch = lay_out(rows, trees=self._trees, pad_id=self._tokenizer.pad_token_id)
        if any(len(side) != 1 for side in sides):
            owners = torch.tensor([i for i, side in enumerate(sides) for _ in side])
            batch["owners"] = owners
        if self._settings.loss == "dmpo":
            weights = [turn_weights(side, self._settings.turn_discount) for side in sides]
            batch["weights"] = torch.cat(weights)  # (N,), one for each trained token of each row
        batch["side_tokens"] = torch.tensor([sum(row.trained for row in side) for side in sides])
        return batch

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        """Leave the rows as they are: they are tokenised and masked."""
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["index", "ref_chosen_logps", "ref_rejected_logps"]

    def get_train_dataloader(self) -> DataLoader[dict[str, torch.Tensor]]:
        """Return batches of pairs of similar length."""
        lengths = [max(sum(len(r.ids) for r in side) for side in row.sides) for row in self._rows]
        return base_trainer.bucket_loader(self, lengths, self._settings, make=self._sampler)

    def _sampler(self, lengths: list[int], **keywords: Any) -> BucketSampler:
        """Return what deals the rows."""
        return BucketSampler(lengths, **keywords)

    def _get_num_items_in_batch(
        self, batch_samples: list[dict[str, Any]], device: torch.device
    ) -> torch.Tensor:
        """Count the pairs of one optimizer batch, over all devices."""
        if self._origin is not None:
            self._origin.begin_batch(self.accelerator)
        real = [batch for batch in batch_samples if "filler" not in batch]
        pairs = sum(len(batch["side_tokens"]) // 2 for batch in real)
        self.tokens_seen += sum(int(batch["tokens"]) for batch in real)
        total = torch.tensor(pairs, device=device)
        if self.args.world_size > 1:
            total = self.accelerator.gather(total).sum()
        return total

    # --- the reference ---------------------------------------------------------------------------

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """Score every side once, or read the scores of an earlier run with this model and data."""
        self._equip_reference()  # under FSDP, TRL loads one for these scores and then frees it
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
            scores = self._reference_scores(sides, 4 * batch_size)
            if self.is_world_process_zero():
                reference.save_scores(path, scores)
        dataset = dataset.add_column("ref_chosen_logps", scores[0::2].tolist())
        return dataset.add_column("ref_rejected_logps", scores[1::2].tolist())

    def _reference_scores(
        self, sides: Sequence[tuple[TokenRow, ...]], batch_size: int
    ) -> torch.Tensor:
        """Score sides in an order in which neighbours share most, or are of similar length."""
        scores = torch.zeros(len(sides))
        order = sorted(
            (i for i, side in enumerate(sides) if side),
            key=lambda i: sides[i][0].ids if self._trees else [sum(len(r.ids) for r in sides[i])],
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
            self._precompute_engine = prepare_deepspeed(self.model, self.accelerator)
            yield
            self._precompute_engine = None
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
            disable_gradient_checkpointing(self.model, self._checkpointing_options()),
            self.accelerator.autocast(),
            without_dropout(self.model),
            self._reference() as model,
        ):
            return _side_sums(model, batch)

    def _checkpointing_options(self) -> Any:
        return self.args.gradient_checkpointing_kwargs

    @contextlib.contextmanager
    def _reference(self) -> Iterator[Any]:
        """Yield the model whose adapters are those of the reference, or the reference itself."""
        if self.ref_model is not None:
            yield self.ref_model
        elif hasattr(self.model, "peft_config"):
            model = self.accelerator.unwrap_model(self.model)
            with use_adapter(model, adapter_name="ref" if "ref" in model.peft_config else None):
                yield self._precompute_engine or self.model
        else:
            yield self._precompute_engine or self.model

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
        losses = self._losses(sums, scores, inputs["side_tokens"], inputs)
        if "filler" in inputs:
            losses = 0.0 * sums  # keeps this process in step with the others, and adds nothing
        elif self._origin is not None:
            self._origin.note((sums.detach() - scores)[inputs["side_tokens"] > 0])
        there = inputs["side_tokens"] > 0
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
        notes = self._metrics["train"]
        for row in rows:
            both = row[4:]
            for name, value, known in zip(names, row, both * 2, strict=False):
                if known:
                    notes[name].append(value)
            if not all(both):
                continue
            margin = row[2] - row[3]
            notes["rewards/margins"].append(margin)
            notes["rewards/accuracies"].append(float(margin > 0))


@contextlib.contextmanager
def _without_hash() -> Iterator[None]:
    """Keep TRL from hashing the reference for its cache of scores, which ours stands in for.

    It copies each weight into float32 on the host, twice: 4 GB for the output layer of a 7 B model.
    """
    module: Any = trl_dpo
    hash_module = module.hash_module
    module.hash_module = lambda _: ""
    try:
        yield
    finally:
        module.hash_module = hash_module


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
