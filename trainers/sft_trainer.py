"""The Trainer behind SFT: exact normalisation, the output layer on trained tokens only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import TrainingArguments, set_seed

from eto_gym.trainers import running
from eto_gym.trainers.batching import IGNORED, Rows
from eto_gym.trainers.models import lora_config
from eto_gym.trainers.offload import activations_of
from eto_gym.trainers.options import TrainSettings
from eto_gym.trainers.scoring import install_scorer


class TurnSFTTrainer(running.Recipe):
    """Minimises the mean negative log-likelihood per trained token of each optimizer batch."""

    # The loss below is already divided by the tokens of the whole optimizer batch.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        settings: TrainSettings,
        *,
        model: Any,
        rows: Rows,
        collate: Callable[..., dict[str, torch.Tensor]],
        tokenizer: Any,
        workspace: Path,
    ) -> None:
        """Prepare the model and transformers' Trainer around it."""
        self._settings = settings
        self._rows = rows
        self.tokens_seen = 0
        set_seed(settings.seed)
        if settings.lora_r and not hasattr(model, "peft_config"):
            from peft import get_peft_model

            model = get_peft_model(model, lora_config(settings))
        if settings.gradient_checkpointing and hasattr(model, "peft_config"):
            model.enable_input_require_grads()
        install_scorer(model.get_base_model() if hasattr(model, "peft_config") else model)
        super().__init__(
            model=model,
            args=TrainingArguments(**running.training_arguments(settings, workspace)),
            train_dataset=rows,
            data_collator=collate,
            processing_class=tokenizer,
        )

    def get_train_dataloader(self) -> DataLoader[dict[str, torch.Tensor]]:
        """Return batches of rows of similar length."""
        lengths = [len(row.ids) for row in self._rows.rows]
        return running.bucket_loader(self, lengths, self._settings)

    def _get_num_items_in_batch(
        self, batch_samples: list[dict[str, torch.Tensor]], device: torch.device
    ) -> torch.Tensor:
        """Count the trained tokens of one optimizer batch, over all devices."""
        counts = [batch["labels"].ne(IGNORED).sum() for batch in batch_samples]
        total = torch.stack(counts).sum().to(device)
        real = [batch for batch in batch_samples if "filler" not in batch]
        self.tokens_seen += sum(int(batch["attention_mask"].sum()) for batch in real)
        if self.args.world_size > 1:
            total = self.accelerator.gather(total).sum()
        return total

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        """Return this micro-batch's share of the batch's mean loss."""
        offload = self._settings.activation_offload
        with activations_of(self.model, self.args.device, offload=offload):
            outputs = model(
                input_ids=inputs["input_ids"],
                score=inputs["labels"],
            )
        # Gradients are averaged over devices, and the sum is wanted.
        share = self.args.world_size / num_items_in_batch
        loss: torch.Tensor = -outputs["token_logps"].sum() * share
        return loss
