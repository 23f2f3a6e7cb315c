"""The trainer behind mixture training: two kinds of pairs in a batch, each with its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from eto_gym.trainers.data.encoding import PairRow
from eto_gym.trainers.methods.dpo_trainer import TrajectoryDPOTrainer, preference_losses
from eto_gym.trainers.methods.mixture import MixtureSettings


class MixtureTrainer(TrajectoryDPOTrainer):
    """Minimises the weighted sum of outcome DPO, step DPO and SFT."""

    _settings: MixtureSettings

    def __init__(
        self,
        settings: MixtureSettings,
        *,
        model: Any,
        outcomes: Sequence[PairRow],
        steps: Sequence[PairRow],
        tokenizer: Any,
        workspace: Path,
    ) -> None:
        """Prepare; see `TrajectoryDPOTrainer`."""
        rows = [*outcomes, *steps]
        self._outcomes = len(outcomes)
        # An epoch's mean over all pairs is then the weighted sum of the means of each kind.
        self._outcome_share = len(rows) / max(1, len(outcomes))
        self._step_share = len(rows) / max(1, len(steps))
        super().__init__(settings, model=model, rows=rows, tokenizer=tokenizer, workspace=workspace)

    def _collate(self, items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = super()._collate(items)
        batch["is_step"] = torch.tensor([item["index"] >= self._outcomes for item in items])
        return batch

    def _losses(
        self,
        sums: torch.Tensor,
        reference: torch.Tensor,
        tokens: torch.Tensor,
        inputs: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        s = self._settings
        is_step = inputs["is_step"].to(sums.device)
        losses = preference_losses(sums, reference, tokens, replace(s, sft_weight=0.0))
        likelihood = (sums / tokens).chunk(2)[0]
        outcome = self._outcome_share * (s.outcome_weight * losses - s.sft_weight * likelihood)
        return torch.where(is_step, self._step_share * s.step_weight * losses, outcome)
