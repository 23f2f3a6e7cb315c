"""Datasets, the samplers, and the collators of token rows."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

from eto_gym.trainers.data.encoding import TokenRow

IGNORED = -100
"""Label of a token that is not trained."""


class BucketSampler(Sampler[list[int]]):
    """Yields micro-batches whose rows have similar lengths, in an order set by seed and epoch.

    The rows are shuffled; every window of `window` optimizer batches is then sorted by length and
    cut into batches, which are shuffled again. So batches stay random while little is spent on
    padding. Only the last batch of an epoch can be smaller. Within a batch the order of rows is by
    length too, or by `ranks`: cutting it into micro-batches changes no sum, only what these hold.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        batch_size: int,
        micro_batch_size: int,
        seed: int,
        window: int = 16,
        rank: int = 0,
        world: int = 1,
        ranks: Sequence[int] | None = None,
    ) -> None:
        """Prepare.

        Args:
            lengths: Length of every row.
            batch_size: Rows per optimizer step.
            micro_batch_size: Rows per yielded micro-batch; must divide `batch_size`.
            seed: Seed of the order.
            window: Batches that are sorted together; more saves padding, less mixes better.
            rank: Index of this process.
            world: Number of processes, among which the micro-batches of each optimizer batch are
                dealt in turn. Where the last batch has too few, the others get a filler: the
                complement `~i` of a row's index, see `FillerDataset`.
            ranks: Place of every row among all: rows of an optimizer batch are cut into
                micro-batches in this order. None: by length.
        """
        self._lengths = lengths
        self._ranks = ranks
        self.batch_size = micro_batch_size
        self.drop_last = False
        self._step_rows = batch_size
        self._seed = seed
        self._window = window
        self._epoch = 0
        self._rank = rank
        self._world = world

    def set_epoch(self, epoch: int) -> None:
        """Select the order of this epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Return the number of micro-batches of an epoch."""
        whole, rest = divmod(len(self._lengths), self._step_rows)
        dealt = self.batch_size * self._world
        return whole * (self._step_rows // dealt) + -(-rest // dealt)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the indices of each micro-batch of this process."""
        rng = random.Random(f"{self._seed}:{self._epoch}")
        order = list(range(len(self._lengths)))
        rng.shuffle(order)
        rest = len(order) % self._step_rows
        last = sorted(order[len(order) - rest :], key=self._lengths.__getitem__)
        order = order[: len(order) - rest]
        span = self._step_rows * self._window
        for start in range(0, len(order), span):
            window = sorted(order[start : start + span], key=self._lengths.__getitem__)
            batches = [
                window[i : i + self._step_rows] for i in range(0, len(window), self._step_rows)
            ]
            rng.shuffle(batches)
            for batch in batches:
                yield from self._micro(batch)
        yield from self._micro(last)

    def _micro(self, batch: list[int]) -> Iterator[list[int]]:
        if self._ranks is not None:
            batch = sorted(batch, key=self._ranks.__getitem__)
        micro = list(cut(batch, self.batch_size))
        while len(micro) % self._world:
            micro.append([~batch[0]])
        yield from micro[self._rank :: self._world]


class PassSampler(Sampler[int]):
    """A sampler whose order in each pass over the tasks is the same in a resumed run.

    TRL's draws the order of every pass from one generator, which a resumed run would begin anew.
    """

    def __init__(self, make: Callable[[], Sampler[int]], passes: Callable[[], int]) -> None:
        """Take the sampler's maker, and what tells how many whole passes are over."""
        self._make = make
        self._passes = passes

    def __iter__(self) -> Iterator[int]:
        sampler = self._make()
        for _ in range(self._passes()):
            next(iter(sampler), None)  # draws the order of a pass
        yield from sampler

    def __len__(self) -> int:
        sampler: Any = self._make()
        return len(sampler)


def cut(order: Sequence[int], size: int) -> Iterator[list[int]]:
    """Yield `size` numbers after another; the last part may have fewer."""
    for start in range(0, len(order), size):
        yield list(order[start : start + size])


class FillerDataset(Dataset[Any]):
    """A dataset that gives the row `i` for the index `~i` too, wrapped as a filler.

    Processes that train together must make the same number of passes. A filler keeps one busy that
    has nothing to add.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:
        """Return a row, or a filler."""
        return self._dataset[index] if index >= 0 else Filler(self._dataset[~index])


@dataclass(frozen=True)
class Filler:
    """A row that is computed and does not count."""

    row: Any


def collate_with_fillers(
    collate: Callable[[list[Any]], dict[str, Any]], items: list[Any]
) -> dict[str, Any]:
    """Collate rows; a filler's batch has no labels, and is marked by the key "filler"."""
    if not isinstance(items[0], Filler):
        return collate(items)
    batch = collate([item.row for item in items])
    if "labels" in batch:
        batch["labels"] = torch.full_like(batch["labels"], IGNORED)
    batch["filler"] = torch.ones(len(items))
    return batch


def pad_rows(rows: Sequence[TokenRow], pad_id: int) -> dict[str, torch.Tensor]:
    """Return `input_ids`, `attention_mask` and `labels`, each (B, T), padded on the right.

    Labels stand at the position of the token itself, as transformers expects them.
    """
    longest = max(len(row.ids) for row in rows)
    shape = (len(rows), longest)
    ids = torch.full(shape, pad_id, dtype=torch.long)
    labels = torch.full(shape, IGNORED, dtype=torch.long)
    attention = torch.zeros(shape, dtype=torch.long)
    for index, row in enumerate(rows):
        tokens = torch.tensor(row.ids, dtype=torch.long)
        ids[index, : len(tokens)] = tokens
        attention[index, : len(tokens)] = 1
        labels[index, : len(tokens)] = tokens.where(torch.tensor(row.mask), IGNORED)
    labels[:, 0] = IGNORED
    return {"input_ids": ids, "attention_mask": attention, "labels": labels}
