from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest

from eto_gym.agents.models import batches
from eto_gym.agents.models.batches import ROOM, Costs
from eto_gym.agents.models.local import LocalPolicy
from eto_gym.agents.policy import Conversation
from eto_gym.prompt import Message

MIB = 1 << 20


def _partitions(count: int) -> Iterator[list[slice]]:
    for cuts in itertools.product([False, True], repeat=count - 1):
        ends = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), count]
        yield [slice(a, b) for a, b in itertools.pairwise(ends)]


@pytest.mark.parametrize("seed", range(40))
def test_no_other_cut_costs_less(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(batches, "PASS", 0)
    monkeypatch.setattr(batches, "ROOM", 0)
    weights, token = rng.choice([10, 100, 1000]), 1
    lengths = sorted(rng.randrange(1, rng.choice([3, 300])) for _ in range(rng.randrange(1, 9)))
    most = rng.choice([3, 100])

    def allowed(cut: list[slice]) -> bool:
        parts = [lengths[rows] for rows in cut]
        return all(len(p) == 1 or (len(p) <= most and len(p) * p[-1] <= 4 * weights) for p in parts)

    def cost(cut: list[slice]) -> int:
        return sum(2 * weights + len(lengths[rows]) * lengths[rows][-1] for rows in cut)

    found = Costs(weights=weights, layers=3, token=token).cut(lengths, most)
    assert allowed(found)
    assert cost(found) == min(cost(c) for c in _partitions(len(lengths)) if allowed(c))


def test_what_is_held_side_by_side_is_bounded() -> None:
    # SmolLM2 in float32: 46 kB of keys and values per token, 540 MB of weights.
    costs = Costs(weights=540 * MIB, layers=30, token=46_080)
    cut = costs.cut([3500] * 32, 128)
    assert [rows.stop - rows.start for rows in cut] != [32]
    assert max(rows.stop - rows.start for rows in cut) * 3500 * 46_080 < 2.7 * 2**30
    assert costs.cut([600] * 32, 128) == [slice(0, 32)], "short conversations fit"
    assert costs.cut([100_000], 128) == [slice(0, 1)], "one row is a batch however long it is"
    assert costs.cut([], 128) == []


def test_a_small_model_has_room_for_many() -> None:
    costs = Costs(weights=4 * MIB, layers=3, token=1536)
    assert ROOM > 128 * 2048 * 1536
    assert costs.cut([2048] * 128, 128) == [slice(0, 128)]


def test_long_and_short_conversations_are_computed_apart_and_say_the_same(
    tiny_policy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    talks = [
        Conversation(str(i), [Message("user", "go north and look at the desk " * n)], seed=i)
        for i, n in enumerate([1, 40, 2, 60, 1, 3])
    ]
    together = tiny_policy()
    monkeypatch.setattr(together._decoder._costs, "cut", lambda lengths, most: [slice(0, 6)])
    apart = tiny_policy()
    monkeypatch.setattr(apart._decoder._costs, "_pass", 10.0)
    rows: list[int] = []
    run = apart._decoder._run

    def counted(jobs: list[Any]) -> None:
        rows.append(len(jobs))
        run(jobs)

    monkeypatch.setattr(apart._decoder, "_run", counted)
    assert [r.text for r in apart.act(talks)] == [r.text for r in together.act(talks)]
    assert len(rows) > 1
    assert sum(rows) == len(talks)


@pytest.fixture
def tiny_policy() -> Any:
    from eto_gym.agents.models.codec import ChatCodec
    from eto_gym.agents.models.tiny import build_model, train_tokenizer

    tokenizer = train_tokenizer(["go north and look at the desk"], vocab_size=300)
    model = build_model(tokenizer, context=2048)
    codec = ChatCodec(tokenizer)
    return lambda: LocalPolicy(model, codec, max_new_tokens=12, temperature=1.0)
