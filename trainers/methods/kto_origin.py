"""What KTO compares the sides with: an estimate of how far the policy is from its reference.

The method's is the mean log-ratio of replies to other prompts of the batch, not below 0. The turns
of one episode after the prompt of another are nonsense, so here it is that of all sides of the
batch before, which is the same whatever the micro-batches are. At first it is 0, as the policy is
its reference then.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import reduce
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState


class Origin(TrainerCallback, ExportableState):
    """The log-ratio that sides are compared with; kept in checkpoints."""

    def __init__(self) -> None:
        """Begin at 0."""
        self.value = 0.0
        self._total = [0.0, 0.0]  # sum and number of log-ratios since the batch began

    def note(self, ratios: torch.Tensor) -> None:
        """Take in the log-ratios of a micro-batch's sides, in the unit that the loss compares."""
        self._total[0] += float(ratios.double().sum())
        self._total[1] += len(ratios)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Take stock of the optimizer batch, over all processes; each of them calls this.

        That is before a checkpoint, which one process writes for all: what it noted is a part.
        """
        total = torch.tensor(self._total, device=args.device)
        if args.world_size > 1:
            total = reduce(total, reduction="sum")
        self._settle(float(total[0]), float(total[1]))
        self._total = [0.0, 0.0]

    def _settle(self, ratios: float, count: float) -> None:
        if count:
            self.value = max(0.0, ratios / count)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"args": {}, "attributes": {"value": self.value}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Go on from a checkpoint."""
        kept: Any = state.stateful_callbacks
        if state.global_step and type(self).__name__ in kept:
            found = kept[type(self).__name__]["attributes"]
            self.value = found["value"]
            # Checkpoints of an earlier version had not taken stock yet.
            self._settle(*found.get("total", (0.0, 0.0)))
