"""Preference losses over whole sides of pairs; docs/methods/preferences.md has them in one table.

Sources: DPO, Rafailov et al. 2023 (https://arxiv.org/abs/2305.18290); SLiC's hinge, Zhao et al.
2023 (https://arxiv.org/abs/2305.10425); IPO, Azar et al. 2023 (https://arxiv.org/abs/2310.12036);
DPO-Positive, Pal et al. 2024 (https://arxiv.org/abs/2402.13228); DMPO, Shi et al. 2024
(https://arxiv.org/abs/2406.14868); KTO, Ethayarajh et al. 2024 (https://arxiv.org/abs/2402.01306);
SimPO, Meng et al. 2024 (https://arxiv.org/abs/2405.14734); ORPO, Hong et al. 2024
(https://arxiv.org/abs/2403.07691).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch.nn import functional

from eto_gym.errors import DataError
from eto_gym.trainers.data.encoding import TokenPair, TokenRow
from eto_gym.trainers.settings.methods import DPOSettings
from eto_gym.trajectories.pairs import PreferencePair

D = TypeVar("D", bound=DPOSettings)


def log_ratios(
    sums: torch.Tensor, reference: torch.Tensor, tokens: torch.Tensor, settings: DPOSettings
) -> torch.Tensor:
    """Return by how much each side became likelier, (2P,), in the unit that losses compare.

    That is nats, or, with `length_normalization`, nats per trained token; a side without tokens has
    0. KTO's origin is a mean of these.
    """
    ratios = sums - reference
    return ratios / tokens.clamp(min=1) if settings.length_normalization else ratios


def preference_losses(
    sums: torch.Tensor,
    reference: torch.Tensor,
    tokens: torch.Tensor,
    settings: DPOSettings,
    origin: float = 0.0,
) -> torch.Tensor:
    """Return the loss of every pair, (P,); for "kto" a side without tokens is missing.

    Args:
        sums: Log-probability of each side under the policy, (2P,); chosen sides first, then
            rejected. For "dmpo" each turn is weighed, see `turn_weights`.
        reference: The same under the reference model.
        tokens: Number of trained tokens of each side.
        settings: Loss, beta, and the terms that are added.
        origin: For "kto": the log-ratio that sides are compared with, not below 0; in the unit of
            `log_ratios`.
    """
    there = (tokens > 0).chunk(2)
    chosen, rejected = log_ratios(sums, reference, tokens, settings).chunk(2)
    tokens = tokens.clamp(min=1)
    means = (sums / tokens).chunk(2)
    beta = settings.beta
    logits = beta * (chosen - rejected)
    if settings.loss == "hinge":
        losses = torch.relu(1 - logits)
    elif settings.loss == "ipo":
        losses = (chosen - rejected - 1 / (2 * beta)) ** 2
    elif settings.loss == "dpop":
        fallen = torch.relu(-chosen)
        losses = -functional.logsigmoid(logits - beta * settings.positive_weight * fallen)
    elif settings.loss == "kto":
        good = 1 - torch.sigmoid(beta * (chosen - origin))
        bad = 1 - torch.sigmoid(beta * (origin - rejected))
        losses = good * there[0] + settings.undesirable_weight * bad * there[1]
        losses = losses / (there[0].int() + there[1].int())  # each side is an example
    elif settings.loss == "simpo":
        losses = -functional.logsigmoid(beta * (means[0] - means[1]) - settings.target_margin)
    elif settings.loss == "orpo":
        losses = -means[0] - beta * functional.logsigmoid(_log_odds(means[0]) - _log_odds(means[1]))
    else:  # "sigmoid", and "dmpo", which differs in its sums
        losses = -functional.logsigmoid(logits)
        if settings.label_smoothing:
            losses = losses * (1 - settings.label_smoothing)
            losses = losses - settings.label_smoothing * functional.logsigmoid(-logits)
    if settings.sft_weight:
        losses = losses - settings.sft_weight * means[0]
    return losses


def check_sides(pairs: Iterable[PreferencePair], loss: str) -> None:
    """Refuse sides that stand by themselves, unless the loss takes each by itself.

    Raises:
        DataError: There are some, and it does not.
    """
    alone = 0 if loss == "kto" else sum(not (p.chosen and p.rejected) for p in pairs)
    if alone:
        raise DataError(
            f"{alone} successes or failures stand by themselves, and the loss {loss!r} compares "
            "two sides: set the loss to 'kto', or pair them (pairing.contrast)"
        )


def balanced(settings: D, rows: Iterable[TokenPair]) -> D:
    """Return settings in which an `undesirable_weight` of 0 is settled by the data.

    Only sides that are trained on count, and not those that tokenisation dropped. All failures
    together then weigh as much as all successes, which is the upper end of what KTO's authors
    advise. Where there are only failures, or only successes, it is 1.
    """
    if settings.loss != "kto" or settings.undesirable_weight:
        return settings
    there = [(bool(chosen), bool(rejected)) for chosen, rejected in (row.sides for row in rows)]
    good, bad = (sum(side) for side in zip(*there, strict=True))
    return replace(settings, undesirable_weight=good / bad if good and bad else 1.0)


def turn_weights(side: Sequence[TokenRow], discount: float) -> torch.Tensor:
    """Return the weight of every trained token of a side for DMPO, row by row.

    Turn t of T, counted from 0 over all rows of the side, has (1 - g^(T-t)) / (1 - g^T).
    """
    turns: list[int] = []
    turn = -1
    for row in side:
        before = False
        for kept in row.mask[1:]:  # nothing predicts the first token
            turn += kept and not before
            if kept:
                turns.append(turn)
            before = kept
    left = turn + 1 - torch.tensor(turns, dtype=torch.float64)
    return ((1 - discount**left) / (1 - discount ** (turn + 1))).float()


def _log_odds(logp: torch.Tensor) -> torch.Tensor:
    """Return log(p / (1 - p)); p is kept off 1, where it is infinite."""
    logp = logp.clamp(max=-1e-6)
    return logp - torch.log(-torch.expm1(logp))
