"""Lays out the rows of a micro-batch: padded, or as a token tree."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from eto_gym.errors import EtoGymError
from eto_gym.trainers.data.batching import IGNORED, pad_rows
from eto_gym.trainers.data.encoding import TokenRow
from eto_gym.trainers.data.trees import build_tree, common_length
from eto_gym.trainers.model.tree_attention import install_trees

LEAST_PART = 0.1
"""Part of the tokens of padded rows that trees must save to be worth it."""

LEAST_PER_ROW = 64
"""Tokens that trees must save in each row. They attend row by row, and that has a price: a row cost
as much as 5 to 50 tokens, more of them the smaller the model, on one core (models of widths 48, 128
and 256, micro-batches of 4 to 32 rows)."""

SAMPLE = 256
"""Micro-batches that are looked at, spread over an epoch, to tell what trees save."""

logger = logging.getLogger(__name__)


def lay_out(rows: Sequence[TokenRow], *, trees: bool, pad_id: int) -> dict[str, Any]:
    """Return rows as a tree or as padded rows, with "trained" and "tokens" as in a tree."""
    if trees:
        return build_tree(rows)
    batch = pad_rows(rows, pad_id)
    tokens = batch.pop("attention_mask").sum()
    return {**batch, "trained": batch["labels"].ne(IGNORED).sum(dim=1), "tokens": tokens}


class Saving(NamedTuple):
    """What trees save of padded rows: the part of all tokens, and how many of each row."""

    part: float
    per_row: float

    @property
    def enough(self) -> bool:
        """Whether that is worth their price."""
        return self.part >= LEAST_PART and self.per_row >= LEAST_PER_ROW


def choose_layout(model: Any, wanted: str, *, saving: Saving | None = None) -> tuple[bool, str]:
    """Decide whether rows become trees, and let the model take them.

    Args:
        model: The model itself, with `install_scorer` done, not a wrapper of PEFT around it.
        wanted: "auto", "on" or "off", see `SharingSettings`.
        saving: What trees save, where that decides.

    Returns:
        Whether they do; and "on" or "off", with the reason where that was not asked for.

    Raises:
        EtoGymError: Trees are demanded, and the model cannot take them.
    """
    if wanted == "off":
        return False, "off"
    reason = ""
    if saving is not None:
        reason = f": saves {saving.part:.0%} of the tokens, {saving.per_row:.0f} of each row"
        if not saving.enough:
            return False, f"off{reason}"
    obstacle = install_trees(model)
    if obstacle is None:
        return True, f"on{reason}"
    problem = f"{type(model).__name__} cannot share what rows have in common: {obstacle}"
    if wanted == "on":
        raise EtoGymError(f"{problem}. Set share_prefix to 'off' or 'auto'.")
    logger.warning("%s. Every row computes it anew.", problem)
    return False, f"off: {obstacle}"


def saving_of_trees(rows: Sequence[TokenRow], batches: Sequence[Sequence[int]]) -> Saving:
    """Return what trees save of the tokens of padded micro-batches.

    Args:
        rows: All rows.
        batches: The micro-batches, as places in `rows`; a sample of them is looked at.
    """
    count = padded = kept = 0
    for batch in batches[:: -(-len(batches) // SAMPLE)]:
        ids = [np.asarray(tokens) for tokens in sorted(rows[index].ids for index in batch)]
        count += len(ids)
        padded += len(ids) * max(len(tokens) for tokens in ids)
        kept += sum(len(tokens) for tokens in ids)
        # Of sorted rows, each shares most with the one before it.
        kept -= sum(common_length(*pair) for pair in itertools.pairwise(ids))
    return Saving((padded - kept) / padded, (padded - kept) / count)
