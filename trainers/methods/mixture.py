"""Mixture training: whole episodes and single steps as preferences, and the experts imitated.

Source: Xiong et al., "Watch Every Step! LLM Agent Learning via Iterative Step-Level Process
Refinement" (IPR), EMNLP 2024 (https://arxiv.org/abs/2406.11176): outcome DPO, step DPO and SFT in
one loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from eto_gym.errors import DataError
from eto_gym.trainers.data.encoding import Codec, TokenPair, TokenReport, encode_pairs
from eto_gym.trainers.methods.dpo import TrajectoryDPOTrainer
from eto_gym.trainers.methods.preference_losses import preference_losses
from eto_gym.trainers.run.training import TrainReport, train
from eto_gym.trainers.run.watch import Watch, prepared
from eto_gym.trainers.settings.methods import MixtureSettings
from eto_gym.trajectories.pairs import PreferencePair


def run_mixture(
    settings: MixtureSettings,
    outcomes: Sequence[PreferencePair],
    steps: Sequence[PreferencePair],
    *,
    model: str | Path,
    output: str | Path,
    codec: Codec | None = None,
    resume: bool = False,
    watch: Watch | None = None,
) -> TrainReport:
    """Train a model on pairs of whole episodes and of steps at once, with itself as the reference.

    A batch is drawn from both kinds of pairs. Each pair's loss is weighted so that an epoch's mean
    is `outcome_weight` times the mean over the whole episodes plus `step_weight` times the mean
    over the steps, however many there are of each.

    Args:
        settings: How to train.
        outcomes: Pairs of whole episodes.
        steps: Pairs of steps; their prompts end where the sides part.
        model: Folder or hub name of a causal language model, or folder of an adapter;
            it is the reference too.
        output: Folder of the new model: safetensors, tokenizer, and the report as `training.json`.
            It appears only when it is complete.
        codec: Tokenises conversations; by default the model's own chat template does.
        resume: Go on from the last whole checkpoint of a killed run; a finished run is not
            repeated. By default a run starts anew.
        watch: Progress, scores during training, early stopping; by default a progress bar only.

    Raises:
        DataError: One kind of pairs is missing though it has a weight, or the data or the folders
            cannot be used.
    """
    for name, pairs, weight in (
        ("whole episodes", outcomes, settings.outcome_weight + settings.sft_weight),
        ("steps", steps, settings.step_weight),
    ):
        if weight and not pairs:
            raise DataError(f"there is no pair of {name}: find some, or set their weight to 0")
    with prepared(settings, model, output, codec) as (tokenizer, codec):
        rows: list[list[TokenPair]] = []
        data = TokenReport()
        for pairs, weight in (
            (outcomes, settings.outcome_weight + settings.sft_weight),
            (steps, settings.step_weight),
        ):
            encoded: list[TokenPair] = []
            if weight:
                encoded, report = encode_pairs(
                    codec, pairs, max_length=settings.max_length, truncation=settings.truncation
                )
                data.include(report)
            rows.append(encoded)

        def build(loaded: Any, workspace: Path) -> MixtureTrainer:
            return MixtureTrainer(
                settings,
                model=loaded,
                outcomes=rows[0],
                steps=rows[1],
                tokenizer=tokenizer,
                workspace=workspace,
                source=model,
            )

        return train(
            "mixture",
            settings,
            rows[0] + rows[1],
            data,
            build=build,
            tokenizer=tokenizer,
            model=model,
            output=output,
            resume=resume,
            watch=watch,
            plan={"outcomes": len(rows[0])},
        )


class MixtureTrainer(TrajectoryDPOTrainer):
    """Minimises the weighted sum of outcome DPO, step DPO and SFT."""

    _settings: MixtureSettings

    def __init__(
        self,
        settings: MixtureSettings,
        *,
        model: Any,
        outcomes: Sequence[TokenPair],
        steps: Sequence[TokenPair],
        tokenizer: Any,
        workspace: Path,
        source: str | Path | None = None,
    ) -> None:
        """Prepare; see `TrajectoryDPOTrainer`."""
        rows = [*outcomes, *steps]
        self._outcomes = len(outcomes)
        # An epoch's mean over all pairs is then the weighted sum of the means of each kind.
        self._outcome_share = len(rows) / max(1, len(outcomes))
        self._step_share = len(rows) / max(1, len(steps))
        super().__init__(
            settings,
            model=model,
            rows=rows,
            tokenizer=tokenizer,
            workspace=workspace,
            source=source,
        )

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
        losses = preference_losses(sums, reference, tokens, replace(s, sft_weight=0.0), self.origin)
        likelihood = (sums / tokens).chunk(2)[0]
        outcome = self._outcome_share * (s.outcome_weight * losses - s.sft_weight * likelihood)
        return torch.where(is_step, self._step_share * s.step_weight * losses, outcome)
