"""Supervised fine-tuning on the agent's turns of whole conversations.

The loss is the mean over the trained tokens of an optimizer batch, and the output layer sees no
other token. What the rows of a micro-batch share at their beginnings is computed once, where that
pays and the model allows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import TrainingArguments, set_seed

from eto_gym.trainers.data.encoding import Codec, TokenRow, encode_trajectories
from eto_gym.trainers.data.trees import score_tree
from eto_gym.trainers.model.layout import lay_out
from eto_gym.trainers.model.models import bare_model, with_adapters
from eto_gym.trainers.model.offload import activations_of
from eto_gym.trainers.model.scoring import install_scorer
from eto_gym.trainers.run import base_trainer, row_layout
from eto_gym.trainers.run.training import TrainReport, train
from eto_gym.trainers.run.watch import Watch, prepared
from eto_gym.trainers.settings.methods import SFTSettings
from eto_gym.trajectories import Trajectory


def run_sft(
    settings: SFTSettings,
    trajectories: Sequence[Trajectory],
    *,
    model: str | Path,
    output: str | Path,
    codec: Codec | None = None,
    resume: bool = False,
    watch: Watch | None = None,
) -> TrainReport:
    """Fine-tune a model on `trajectories`.

    Args:
        settings: How to train.
        trajectories: What to learn from.
        model: Folder or hub name of a causal language model, or folder of an adapter.
        output: Folder of the new model: safetensors, tokenizer, and the report as `training.json`.
            It appears only when it is complete.
        codec: Tokenises conversations; by default the model's own chat template does.
        resume: Go on from the last whole checkpoint of a killed run; a finished run is not
            repeated. By default a run starts anew.
        watch: Progress, scores during training, early stopping; by default a progress bar only.

    Raises:
        DataError: The data, or the folders, cannot be used; the message says why.
    """
    with prepared(settings, model, output, codec) as (tokenizer, codec):
        rows, data = encode_trajectories(
            codec,
            trajectories,
            max_length=settings.max_length,
            truncation=settings.truncation,
            train_on=settings.train_on,
        )
        settings = settings.for_data(data.rows, data.tokens)

        def build(loaded: Any, workspace: Path) -> TurnSFTTrainer:
            return TurnSFTTrainer(
                settings,
                model=loaded,
                rows=rows,
                tokenizer=tokenizer,
                workspace=workspace,
            )

        return train(
            "sft",
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


class TurnSFTTrainer(base_trainer.BaseTrainer):
    """Minimises the mean negative log-likelihood per trained token of each optimizer batch."""

    # The loss below is already divided by the tokens of the whole optimizer batch.
    loss_is_scaled_for_ga = True
    _settings: SFTSettings

    def __init__(
        self,
        settings: SFTSettings,
        *,
        model: Any,
        rows: Sequence[TokenRow],
        tokenizer: Any,
        workspace: Path,
    ) -> None:
        """Prepare the model and transformers' Trainer around it."""
        self._settings = settings
        self._lengths = [len(row.ids) for row in rows]
        self._pad_id = tokenizer.pad_token_id
        self.tokens_seen = 0
        set_seed(settings.seed)
        model = with_adapters(model, settings)
        inner = bare_model(model)
        install_scorer(inner)
        base_trainer.spare_memory(inner, settings)
        self._layout = row_layout.choose(inner, settings, [[row] for row in rows], self._lengths)
        self.notes = {"share_prefix": self._layout.note}
        super().__init__(
            model=model,
            args=TrainingArguments(**base_trainer.training_arguments(settings, workspace)),
            train_dataset=rows,
            data_collator=self._collate,
            processing_class=tokenizer,
        )

    def _collate(self, rows: Sequence[TokenRow]) -> dict[str, Any]:
        return lay_out(rows, trees=self._layout.trees, pad_id=self._pad_id)

    def get_train_dataloader(self) -> DataLoader[dict[str, torch.Tensor]]:
        """Return batches of rows of similar length."""
        return base_trainer.bucket_loader(
            self, self._lengths, self._settings, ranks=self._layout.ranks
        )

    def _get_num_items_in_batch(
        self, batch_samples: list[dict[str, Any]], device: torch.device
    ) -> torch.Tensor:
        """Count the trained tokens of one optimizer batch, over all devices."""
        real = [batch for batch in batch_samples if "filler" not in batch]
        trained = sum(int(batch["trained"].sum()) for batch in real)
        total = torch.tensor(trained, device=device)
        self.tokens_seen += sum(int(batch["tokens"]) for batch in real)
        if self.args.world_size > 1:
            total = self.accelerator.gather(total).sum()
        return total

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        """Return this micro-batch's share of the batch's mean loss."""
        offload = self._settings.activation_offload
        with activations_of(self.model, self.args.device, offload=offload):
            logps = _summed_logps(model, inputs)
        # Gradients are averaged over devices, and the sum is wanted.
        share = self.args.world_size / num_items_in_batch
        if "filler" in inputs:
            share = 0.0 * share  # keeps this process in step with the others, and adds nothing
        loss: torch.Tensor = -logps * share
        return loss


def _summed_logps(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    if "tree" in batch:
        return score_tree(model, batch).sum()
    logps: torch.Tensor = model(input_ids=batch["input_ids"], score=batch["labels"])["token_logps"]
    return logps.sum()
