"""The Trainer behind SFT: exact normalisation, the output layer on trained tokens only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments, set_seed

from eto_gym.trainers import running
from eto_gym.trainers.batching import IGNORED, Rows
from eto_gym.trainers.models import lora_config
from eto_gym.trainers.optimizers import build_optimizer
from eto_gym.trainers.options import TrainSettings
from eto_gym.trainers.scoring import install_scorer


class TurnSFTTrainer(Trainer):  # type: ignore[misc]
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
        lengths = [len(row.ids) for row in self.train_dataset.rows]
        return running.bucket_loader(self, lengths, self._settings)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Build the optimizer that the settings name."""
        if self.optimizer is None:
            self.optimizer = build_optimizer(model or self.model, self._settings)
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LambdaLR:
        """Build the schedule that the settings name."""
        if self.lr_scheduler is None:
            self.lr_scheduler = running.warmup_schedule(
                optimizer or self.optimizer, self._settings, num_training_steps
            )
        return self.lr_scheduler

    def _get_num_items_in_batch(
        self, batch_samples: list[dict[str, torch.Tensor]], device: torch.device
    ) -> torch.Tensor:
        """Count the trained tokens of one optimizer batch, over all devices."""
        counts = [batch["labels"].ne(IGNORED).sum() for batch in batch_samples]
        total = torch.stack(counts).sum().to(device)
        self.tokens_seen += sum(int(batch["attention_mask"].sum()) for batch in batch_samples)
        if self.args.world_size > 1:
            total = self.accelerator.gather(total).sum()
        return total

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Return this micro-batch's share of the batch's mean loss."""
        outputs = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            score=inputs["labels"],
        )
        # Gradients are averaged over devices, and the sum is wanted.
        return -outputs["token_logps"].sum() / num_items_in_batch * self.args.world_size

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Do not estimate: it costs time at every step, and nothing reads it."""
        return 0
