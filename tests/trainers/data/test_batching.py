from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from eto_gym.trainers.data.batching import BucketSampler, cut, pad_rows  # noqa: E402
from eto_gym.trainers.data.encoding import TokenRow  # noqa: E402


@given(
    lengths=st.lists(st.integers(1, 500), max_size=80),
    micro=st.integers(1, 4),
    passes=st.integers(1, 4),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 3),
)
def test_every_row_comes_once_per_epoch_in_full_batches(
    lengths: list[int], micro: int, passes: int, seed: int, epoch: int
) -> None:
    def order(micro: int) -> list[list[int]]:
        sampler = BucketSampler(
            lengths, batch_size=micro * passes, micro_batch_size=micro, seed=seed, window=2
        )
        sampler.set_epoch(epoch)
        assert len(sampler) == len(list(sampler))
        return list(sampler)

    batches = order(micro)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(len(batch) == micro for batch in batches[:-1])
    assert batches == order(micro)


def test_micro_batches_cut_the_same_optimizer_batches() -> None:
    lengths = [(7 * n) % 23 for n in range(37)]

    def steps(micro: int) -> list[set[int]]:
        flat = [
            index
            for batch in BucketSampler(lengths, batch_size=8, micro_batch_size=micro, seed=1)
            for index in batch
        ]
        return [set(flat[start : start + 8]) for start in range(0, len(flat), 8)]

    assert steps(1) == steps(2) == steps(8)


@given(
    lengths=st.lists(st.integers(1, 500), min_size=1, max_size=60),
    micro=st.integers(1, 4),
    passes=st.integers(1, 4),
    shuffled=st.randoms(use_true_random=False),
)
def test_ranks_cut_the_same_optimizer_batches_in_another_order(
    lengths: list[int], micro: int, passes: int, shuffled: random.Random
) -> None:
    ranks = list(range(len(lengths)))
    shuffled.shuffle(ranks)

    def steps(ranks: list[int] | None) -> list[list[int]]:
        sampler = BucketSampler(
            lengths, batch_size=micro * passes, micro_batch_size=micro, seed=1, ranks=ranks
        )
        return list(cut([index for part in sampler for index in part], micro * passes))

    ordered = steps(ranks)
    assert [sorted(step) for step in ordered] == [sorted(step) for step in steps(None)]
    assert all(step == sorted(step, key=ranks.__getitem__) for step in ordered)


def test_epochs_and_seeds_change_the_order() -> None:
    lengths = list(range(40))
    first = BucketSampler(lengths, batch_size=4, micro_batch_size=4, seed=0)
    other = BucketSampler(lengths, batch_size=4, micro_batch_size=4, seed=1)
    before = list(first)
    first.set_epoch(1)
    assert list(first) != before
    assert list(other) != before


def test_padding_is_neither_read_nor_trained() -> None:
    rows = [TokenRow([5, 6, 7], [True, False, True]), TokenRow([8], [True])]
    batch = pad_rows(rows, pad_id=0)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, -100, 7], [-100, -100, -100]]
