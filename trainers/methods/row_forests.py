"""Rows of sampled episodes: in trees where they share their beginnings, else padded.

PPO, GRPO and RLOO learn from rows that they played themselves (see `data.sampled`): one row for an
episode, or several where a bounded history or a template gives it several prompts. Rows of one
task begin alike, and those of one episode often do. What they share is known when they are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from eto_gym.trainers.data.batching import IGNORED, cut, pad_rows
from eto_gym.trainers.data.encoding import TokenRow
from eto_gym.trainers.data.trees import (
    build_tree,
    score_entropies,
    score_tokens,
    starts_of_turns,
)
from eto_gym.trainers.model.layout import LateSharing, Units

TREE_ROWS = 32
"""Rows that share their beginnings in one pass without gradients."""


class RowForests:
    """Lays out the rows of episodes, and scores them.

    Attributes:
        sharing: Decides whether rows become trees.
        on: Whether those that were decided on last do.
    """

    def __init__(
        self, trainer: Any, model: Any, wanted: str, *, pad_id: int, obstacle: str | None = None
    ) -> None:
        """Make a model ready; see `LateSharing`.

        Args:
            trainer: The Trainer, for its device and its precision.
            model: The model itself, not a wrapper of PEFT around it.
            wanted: "auto", "on" or "off".
            pad_id: Id that fills padded rows.
            obstacle: Why rows cannot be trees for another reason than the model.
        """
        self.sharing = LateSharing(model, wanted, obstacle=obstacle)
        self.on = False
        self._trainer = trainer
        self._pad_id = pad_id

    def decide(
        self, episodes: Units, size: int, steps: Sequence[Sequence[int]] | None = None
    ) -> bool:
        """Decide for episodes, given by their rows.

        Args:
            episodes: The episodes.
            size: How many make a micro-batch.
            steps: The optimizer batches, as places in `episodes`; None: all of them are one.
        """
        steps = [range(len(episodes))] if steps is None else steps
        self.on = False  # the order of padded rows
        padded = [part for step in steps for part in cut(self.order(episodes, step), size)]
        self.on = True
        trees = [part for step in steps for part in cut(self.order(episodes, step), size)]
        self.on = any(episodes) and self.sharing.decide(episodes, padded, trees)
        return self.on

    def order(self, episodes: Units, batch: Sequence[int]) -> list[int]:
        """Return an optimizer batch in the order in which it is cut into micro-batches.

        Neighbours share most where rows become trees, else they are of similar length: a step
        learns from all of them, whatever the order.
        """
        if self.on:
            return sorted(batch, key=lambda i: [row.ids for row in episodes[i]])
        return sorted(batch, key=lambda i: max((len(row.ids) for row in episodes[i]), default=0))

    def tree(self, rows: Sequence[TokenRow]) -> dict[str, Any]:
        """Return the tree of some rows, with the states before their turns as "starts"."""
        tree = build_tree(rows)
        return {**tree, "starts": starts_of_turns(rows, tree)}

    def padded(self, rows: Sequence[TokenRow]) -> dict[str, Any]:
        """Return what the model is called with for padded rows."""
        padded = pad_rows(rows, self._pad_id)
        return {"input_ids": padded["input_ids"], "score": padded["labels"]}

    def sampled(
        self, model: Any, rows: Sequence[TokenRow], *, most: int, entropies: bool
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Score the N trained tokens of rows in trees of at most `most` rows.

        Returns:
            Their log-probabilities, and their entropies where these are asked for: vectors over the
            rows in order, together (N,).
        """
        logps, kept = [], []
        for start in range(0, len(rows), most):
            batch = moved_to(build_tree(rows[start : start + most]), self._trainer.args.device)
            with self._trainer.accelerator.autocast():
                if entropies:
                    one, entropy = score_entropies(model, batch)
                    kept.append(entropy)
                else:
                    one, _ = score_tokens(model, batch)
            logps.append(one)
        return logps, kept

    @torch.no_grad()
    def by_length(
        self, model: Any, rows: Sequence[TokenRow], size: int
    ) -> list[tuple[torch.Tensor, Any]]:
        """Score padded rows, `size` of similar length in a pass.

        Returns:
            Of every row, in the given order and on the CPU: the log-probabilities of its trained
            tokens, and the values before its turns or None.
        """
        scores: list[Any] = [None] * len(rows)
        device = self._trainer.args.device
        for chunk in cut(sorted(range(len(rows)), key=lambda i: len(rows[i].ids)), size):
            batch = self.padded([rows[i] for i in chunk])
            with self._trainer.accelerator.autocast():
                found = model(**moved_to(batch, device))
            logps = found["token_logps"].cpu().split([rows[i].trained for i in chunk])
            values: Sequence[Any] = [None] * len(chunk)
            if "values" in found:
                turns = turn_starts(batch["score"]).sum(1)
                values = found["values"].cpu().split(turns.tolist())
            for i, one, value in zip(chunk, logps, values, strict=True):
                scores[i] = (one, value)
        return scores

    @torch.no_grad()
    def by_tree(self, model: Any, rows: Sequence[TokenRow]) -> list[tuple[torch.Tensor, Any]]:
        """Score rows that share their beginnings; return what `by_length` does."""
        scores: list[Any] = [None] * len(rows)
        for places in cut(sorted(range(len(rows)), key=lambda i: rows[i].ids), TREE_ROWS):
            chunk = [rows[i] for i in places]
            with self._trainer.accelerator.autocast():
                batch = moved_to(self.tree(chunk), self._trainer.args.device)
                logps, values = score_tokens(model, batch)
            parts = torch.split(logps.cpu(), [row.trained for row in chunk])
            turns = [int(turn_numbers(row.mask).max()) + 1 for row in chunk]
            split: Sequence[Any] = [None] * len(chunk)
            if values is not None:
                split = torch.split(values.cpu(), turns)
            for i, one, value in zip(places, parts, split, strict=True):
                scores[i] = (one, value)
        return scores


def moved_to(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Return a batch with its tensors on a device."""
    return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}


def turn_starts(labels: torch.Tensor) -> torch.Tensor:
    """Mark the places from which the first token of a turn is predicted: (B, T) -> (B, T - 1)."""
    trained = labels.ne(IGNORED)
    return trained[:, 1:] & ~trained[:, :-1]


def turn_numbers(mask: Sequence[bool]) -> torch.Tensor:
    """Return the number of its turn for every trained token: a run of marks is a turn."""
    starts = [kept and not before for before, kept in zip([False, *mask], mask, strict=False)]
    numbers = torch.tensor(starts).cumsum(0) - 1
    return numbers[torch.tensor(mask)]


def turns_of(rows: Sequence[TokenRow]) -> torch.Tensor:
    """Return the same for an episode; a row begins with what was read, so it begins a turn."""
    return turn_numbers([kept for row in rows for kept in row.mask])
