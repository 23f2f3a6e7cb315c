"""Lays out the rows of a micro-batch: padded, or as a token tree."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from eto_gym.errors import EtoGymError
from eto_gym.trainers.data.batching import IGNORED, pad_rows
from eto_gym.trainers.data.encoding import TokenRow
from eto_gym.trainers.data.trees import build_tree, common_length
from eto_gym.trainers.model.scoring import install_scorer
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

Units = Sequence[Sequence[TokenRow]]
"""What a micro-batch is a number of: rows, episodes or pairs, each with its rows."""


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

    def __str__(self) -> str:
        """Say it, for a report."""
        return f"saves {self.part:.0%} of the tokens, {self.per_row:.0f} of each row"


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
        reason = f": {saving}"
        if not saving.enough:
            return False, f"off{reason}"
    obstacle = install_trees(model)
    if obstacle is None:
        return True, f"on{reason}"
    problem = _problem(model, obstacle)
    if wanted == "on":
        raise EtoGymError(f"{problem}. Set share_prefix to 'off' or 'auto'.")
    logger.warning("%s. Every row computes it anew.", problem)
    return False, f"off: {obstacle}"


def _problem(model: Any, obstacle: str) -> str:
    return f"{type(model).__name__} cannot share what rows have in common: {obstacle}"


class LateSharing:
    """Decides whether rows become trees where these are played, and so not known beforehand.

    The model is made ready when training is set up, before anything wraps its calls in another
    precision; what a batch would save decides when it is there.

    Attributes:
        notes: What was decided last, and why: for the report.
    """

    def __init__(self, model: Any, wanted: str, *, obstacle: str | None = None) -> None:
        """Let a model score tokens and take trees, where that is wanted and can be.

        Args:
            model: The model itself, not a wrapper of PEFT around it.
            wanted: "auto", "on" or "off", see `SharingSettings`.
            obstacle: Why rows cannot be trees for another reason than the model.

        Raises:
            EtoGymError: Trees are demanded, and cannot be had.
        """
        self._model = model
        self._wanted = wanted
        self._obstacle = obstacle
        self.notes: dict[str, str] = {}
        if wanted == "off":
            self.notes["share_prefix"] = "off"
            return
        self._obstacle = obstacle or _made_ready(model)
        if self._obstacle and wanted == "on":
            raise EtoGymError(
                f"{_problem(model, self._obstacle)}. Set share_prefix to 'off' or 'auto'."
            )

    def follow(self, reference: Any) -> None:
        """Let a second model take trees as the first one does."""
        if self._wanted != "off" and not self._obstacle:
            install_scorer(reference)
            reference.set_attn_implementation(
                self._model.config.get_text_config()._attn_implementation
            )

    def decide(
        self, units: Units, padded: Sequence[Sequence[int]], trees: Sequence[Sequence[int]]
    ) -> bool:
        """Return whether rows become trees, one for each micro-batch; see `saving_of_trees`."""
        if self._wanted == "off":
            return False
        shared, note = True, "on"
        if self._wanted == "auto":
            saving = saving_of_trees(units, padded, trees)
            shared, note = saving.enough, f"{'on' if saving.enough else 'off'}: {saving}"
        if shared and self._obstacle:
            if self.notes.get("share_prefix") != f"off: {self._obstacle}":
                logger.warning(
                    "%s. Every row computes it anew.", _problem(self._model, self._obstacle)
                )
            shared, note = False, f"off: {self._obstacle}"
        self.notes["share_prefix"] = note
        return shared


def _made_ready(model: Any) -> str | None:
    """Return why a model cannot take trees, or None: then it can from now on."""
    try:
        install_scorer(model)
    except EtoGymError as err:
        return str(err)
    return install_trees(model)


def ranks_of(units: Units) -> list[int]:
    """Return each unit's place among all, so that those whose rows share most are neighbours."""
    ranks = [0] * len(units)
    order = sorted(range(len(units)), key=lambda unit: [row.ids for row in units[unit]])
    for rank, unit in enumerate(order):
        ranks[unit] = rank
    return ranks


def saving_of_trees(
    units: Units,
    padded: Sequence[Sequence[int]],
    trees: Sequence[Sequence[int]],
    *,
    passes: int = 1,
) -> Saving:
    """Return what trees save of the tokens of padded micro-batches.

    Args:
        units: What micro-batches are made of, each with its rows: one, or those of an episode or
            of the sides of a pair.
        padded: The micro-batches of padded rows, as places in `units`.
        trees: Those of trees; these have the same optimizer batches, cut in another way.
        passes: Micro-batches of an optimizer batch; a sample of these is looked at.
    """
    count = before = after = 0
    stride = -(-len(padded) // SAMPLE)
    for number, (wide, narrow) in enumerate(zip(padded, trees, strict=True)):
        if number // passes % stride:
            continue
        lengths = [len(ids) for ids in _ids(units, wide)]
        count += len(lengths)
        before += len(lengths) * max(lengths, default=0)
        ids = [np.asarray(tokens) for tokens in sorted(_ids(units, narrow))]
        after += sum(map(len, ids))
        # Of sorted rows, each shares most with the one before it.
        after -= sum(common_length(*pair) for pair in itertools.pairwise(ids))
    return Saving((before - after) / max(1, before), (before - after) / max(1, count))


def _ids(units: Units, batch: Sequence[int]) -> Iterator[list[int]]:
    return (row.ids for unit in batch for row in units[unit])
