"""Lays out the rows of SFT and of preference training, which are known before it begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from eto_gym.trainers.data.batching import BucketSampler
from eto_gym.trainers.model.layout import Units, choose_layout, ranks_of, saving_of_trees
from eto_gym.trainers.run.base_trainer import bucket_sampler, micro_batch
from eto_gym.trainers.settings.base import SharingSettings


class RowLayout(NamedTuple):
    """How the rows of a run are laid out.

    Attributes:
        trees: Whether a micro-batch is one tree of tokens, and not padded rows.
        note: "on" or "off", and why where that was not asked for.
        ranks: Order in which units of an optimizer batch become micro-batches; None: by length.
    """

    trees: bool
    note: str
    ranks: list[int] | None


def choose(
    model: Any,
    settings: SharingSettings,
    units: Units,
    lengths: list[int],
    *,
    make: Callable[..., BucketSampler] = BucketSampler,
) -> RowLayout:
    """Decide by the batches of the first epoch, and let the model take trees.

    An optimizer step learns from all of its rows, however they are cut into micro-batches: with
    trees those that share most are put together, padded rows by their length.

    Args:
        model: The model itself, with `install_scorer` done, not a wrapper of PEFT around it.
        settings: How to train.
        units: What micro-batches are made of.
        lengths: Length of each, by which optimizer batches are made.
        make: Makes the sampler.

    Raises:
        EtoGymError: Trees are demanded, and the model cannot take them.
    """
    wanted, saving = settings.share_prefix, None
    ranks = None if wanted == "off" else ranks_of(units)
    if wanted == "auto":
        # The batches that one process would have, so that several decide alike.
        padded, trees = (
            list(bucket_sampler(lengths, settings, ranks=order, make=make))
            for order in (None, ranks)
        )
        passes = settings.batch_size // micro_batch(settings)
        saving = saving_of_trees(units, padded, trees, passes=passes)
    shared, note = choose_layout(model, wanted, saving=saving)
    return RowLayout(shared, note, ranks if shared else None)
