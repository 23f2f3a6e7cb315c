"""Mixture training: episodes, steps and groups of steps as preferences, and the experts imitated.

Sources: Xiong et al., "Watch Every Step! LLM Agent Learning via Iterative Step-Level Process
Refinement" (IPR), EMNLP 2024 (https://arxiv.org/abs/2406.11176): outcome DPO, step DPO and SFT in
one loss. Gao et al., "Hierarchical Preference Learning for Long-Horizon LLM Agents" (HPL), 2025
(https://arxiv.org/abs/2510.03253): action groups beside them, with a curriculum.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from eto_gym.errors import DataError
from eto_gym.trainers.data.batching import BucketSampler
from eto_gym.trainers.data.curriculum import PHASES, PhasedSampler, phases_of
from eto_gym.trainers.data.encoding import Codec, TokenPair, TokenReport, encode_pairs
from eto_gym.trainers.methods.dpo import TrajectoryDPOTrainer
from eto_gym.trainers.methods.preference_losses import balanced, check_sides, preference_losses
from eto_gym.trainers.run.training import TrainReport, train
from eto_gym.trainers.run.watch import Watch, prepared
from eto_gym.trainers.settings.methods import MixtureSettings
from eto_gym.trajectories.pairs import PreferencePair


def run_mixture(
    settings: MixtureSettings,
    outcomes: Sequence[PreferencePair],
    steps: Sequence[PreferencePair],
    groups: Sequence[PreferencePair] = (),
    *,
    model: str | Path,
    output: str | Path,
    codec: Codec | None = None,
    resume: bool = False,
    watch: Watch | None = None,
) -> TrainReport:
    """Train a model on pairs of whole episodes and of steps at once, with itself as the reference.

    A batch is drawn from all kinds of pairs. Each pair's loss is weighted so that an epoch's mean
    is `outcome_weight` times the mean over the whole episodes plus `step_weight` times the mean
    over the steps, and so for groups, however many there are of each.

    Args:
        settings: How to train.
        outcomes: Pairs of whole episodes.
        steps: Pairs of steps; their prompts end where the sides part.
        groups: Pairs of action groups, likewise; for a curriculum, with what they are worth.
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
    kinds = (
        ("whole episodes", outcomes, settings.outcome_weight + settings.sft_weight),
        ("steps", steps, settings.step_weight),
        ("action groups", groups, settings.group_weight),
    )
    for name, pairs, weight in kinds:
        if weight and not pairs:
            raise DataError(f"there is no pair of {name}: find some, or set their weight to 0")
        check_sides(pairs, "mixture")
    with prepared(settings, model, output, codec) as (tokenizer, codec):
        rows, data = _encoded(
            codec, [pairs if weight else () for _, pairs, weight in kinds], settings
        )
        settings = balanced(settings.for_data(data.rows, data.tokens), itertools.chain(*rows))
        begins = phases_of(groups) if settings.curriculum and rows[2] else []
        phases = [begins[row.source] for row in rows[2]] if begins else []

        def build(loaded: Any, workspace: Path) -> MixtureTrainer:
            return MixtureTrainer(
                settings,
                model=loaded,
                outcomes=rows[0],
                steps=rows[1],
                groups=rows[2],
                phases=phases,
                tokenizer=tokenizer,
                workspace=workspace,
                source=model,
            )

        more = {"steps": len(rows[1]), "phases": phases} if rows[2] else {}
        return train(
            "mixture",
            settings,
            [*rows[0], *rows[1], *rows[2]],
            data,
            build=build,
            tokenizer=tokenizer,
            model=model,
            output=output,
            resume=resume,
            watch=watch,
            plan={"outcomes": len(rows[0]), **more},
        )


def _encoded(
    codec: Codec, kinds: Sequence[Sequence[PreferencePair]], settings: MixtureSettings
) -> tuple[list[list[TokenPair]], TokenReport]:
    """Return the rows of each kind of pairs, and one report of all."""
    rows: list[list[TokenPair]] = []
    data = TokenReport()
    for pairs in kinds:
        encoded: list[TokenPair] = []
        if pairs:
            encoded, report = encode_pairs(
                codec, pairs, max_length=settings.max_length, truncation=settings.truncation
            )
            data.include(report)
        rows.append(encoded)
    return rows, data


class MixtureTrainer(TrajectoryDPOTrainer):
    """Minimises the weighted sum of the DPO losses of each kind of pairs, and SFT."""

    _settings: MixtureSettings

    def __init__(
        self,
        settings: MixtureSettings,
        *,
        model: Any,
        outcomes: Sequence[TokenPair],
        steps: Sequence[TokenPair],
        groups: Sequence[TokenPair] = (),
        phases: Sequence[int] = (),
        tokenizer: Any,
        workspace: Path,
        source: str | Path | None = None,
    ) -> None:
        """Prepare; see `TrajectoryDPOTrainer`.

        Args:
            settings: How to train.
            model: The model.
            outcomes: Pairs of whole episodes.
            steps: Pairs of steps.
            groups: Pairs of action groups.
            phases: First phase of each of these; none: they are all there from the beginning.
            tokenizer: Its tokenizer.
            workspace: Folder for checkpoints.
            source: Where the model was loaded from.
        """
        rows = [*outcomes, *steps, *groups]
        counts = [len(outcomes), len(steps), len(groups)]
        self._ends = list(itertools.accumulate(counts))
        # An epoch's mean over all pairs is then the weighted sum of the means of each kind.
        self._shares = [len(rows) / max(1, count) for count in counts]
        self._phases = phases
        self._passes = int(settings.epochs)
        if settings.max_steps:  # a third of the steps, in whole passes
            passes = settings.max_steps * settings.batch_size / len(rows)
            self._passes = max(1, round(passes / PHASES))
        if phases:
            settings = replace(settings, epochs=PHASES * settings.epochs)
        super().__init__(
            settings,
            model=model,
            rows=rows,
            tokenizer=tokenizer,
            workspace=workspace,
            source=source,
        )

    def _sampler(self, lengths: list[int], **keywords: Any) -> BucketSampler:
        if not self._phases:
            return super()._sampler(lengths, **keywords)
        return PhasedSampler(lengths, phases=self._phases, passes=self._passes, **keywords)

    def _collate(self, items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = super()._collate(items)
        batch["kinds"] = torch.tensor([bisect_right(self._ends, item["index"]) for item in items])
        return batch

    def _losses(
        self,
        sums: torch.Tensor,
        reference: torch.Tensor,
        tokens: torch.Tensor,
        inputs: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        s = self._settings
        kinds = inputs["kinds"].to(sums.device)  # (P,): 0 whole episode, 1 step, 2 action group
        weights = [s.outcome_weight, s.step_weight, s.group_weight]
        scaled = [w * share for w, share in zip(weights, self._shares, strict=True)]
        losses = preference_losses(sums, reference, tokens, replace(s, sft_weight=0.0), self.origin)
        losses = losses * sums.new_tensor(scaled)[kinds]
        likelihood = (sums / tokens).chunk(2)[0]
        return losses - self._shares[0] * s.sft_weight * likelihood * (kinds == 0)
