"""The order in which action groups are let into training: short and clear ones first.

Groups lie in three by three buckets: by thirds of their length, and by thirds of how far apart the
values of the two sides are, where far apart is easy. The first phase has the bucket that is easiest
in both, the second its two neighbours too, the third all.

Source: Gao et al., "Solving the Granularity Mismatch: Hierarchical Preference Learning for
Long-Horizon LLM Agents" (HPL), ICLR 2026 (https://arxiv.org/abs/2510.03253).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from eto_gym.errors import DataError
from eto_gym.trainers.data.batching import BucketSampler
from eto_gym.trajectories.pairs import PreferencePair

PHASES = 3


def phases_of(groups: Sequence[PreferencePair]) -> list[int]:
    """Return the first phase, from 0, that each pair of action groups is trained in.

    Equal values lie in one bucket, the easier one: groups of one length are all short.

    Raises:
        DataError: A pair does not say what its sides are worth.
    """
    lengths = [sum(m.role == "assistant" for m in pair.chosen) for pair in groups]
    gaps = [_gap(pair) for pair in groups]
    long, hard = _thirds(lengths), _thirds([-gap for gap in gaps])
    return [min(a + b, PHASES - 1) for a, b in zip(long, hard, strict=True)]


def _gap(pair: PreferencePair) -> float:
    for kind in ("value", "reward"):
        if f"chosen_{kind}" in pair.info and f"rejected_{kind}" in pair.info:
            return float(pair.info[f"chosen_{kind}"] - pair.info[f"rejected_{kind}"])
    raise DataError(
        f"the pair of action groups of task {pair.task_id!r} does not say what its sides are worth "
        "(score_chosen, score_rejected), by which a curriculum orders them: set curriculum to false"
    )


def _thirds(values: Sequence[float]) -> list[int]:
    """Return 0, 1 or 2 for the lowest, the middle and the highest third."""
    ranked = sorted(values)
    bounds = [ranked[-(-len(ranked) * part // 3) - 1] for part in (1, 2)] if ranked else []
    return [sum(value > bound for bound in bounds) for value in values]


class PhasedSampler(BucketSampler):
    """Deals all rows in every epoch, but of the groups only those of the epoch's phase.

    These take the places of the others, again and again, so that every epoch is of one size and the
    mean over its groups is that over the phase's.
    """

    def __init__(
        self, lengths: Sequence[int], *, phases: Sequence[int], passes: int, **keywords: Any
    ) -> None:
        """Prepare.

        Args:
            lengths: Length of every row; the last ones are the groups.
            phases: First phase of every group.
            passes: Epochs that a phase lasts.
            keywords: As `BucketSampler` takes them.
        """
        super().__init__(lengths, **keywords)
        self._all_lengths, self._all_ranks = lengths, self._ranks
        self._phases = phases
        self._passes = passes
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Select the order of this epoch, and its groups."""
        super().set_epoch(epoch)
        first = len(self._all_lengths) - len(self._phases)
        # Where no group is as easy as that, the easiest that there are begin.
        phase = max(min(epoch // self._passes, PHASES - 1), min(self._phases))
        groups = [first + i for i, begins in enumerate(self._phases) if begins <= phase]
        self._rows = [*range(first), *(groups[i % len(groups)] for i in range(len(self._phases)))]
        self._lengths = [self._all_lengths[row] for row in self._rows]
        if self._all_ranks is not None:
            self._ranks = [self._all_ranks[row] for row in self._rows]

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the indices of each micro-batch of this process."""
        for batch in super().__iter__():
            yield [self._rows[i] if i >= 0 else ~self._rows[~i] for i in batch]
