"""What preference losses take from the data that they are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import pytest

pytest.importorskip("torch")

from eto_gym.prompt import Message
from eto_gym.trainers.data.encoding import TokenPair, encode_pairs
from eto_gym.trainers.methods.preference_losses import balanced
from eto_gym.trainers.settings.methods import DPOSettings
from eto_gym.trajectories.pairs import PreferencePair

KTO = DPOSettings(loss="kto", undesirable_weight=0.0)


def _pairs(*there: str, words: str = "go") -> list[PreferencePair]:
    good, bad = (Message("assistant", text, train=True) for text in (words, f"not {words}"))
    return [
        PreferencePair(
            "t",
            (Message("user", "what?"),),
            (good,) if "+" in name else (),
            (bad,) if "-" in name else (),
        )
        for name in there
    ]


def _sides(*there: str) -> list[TokenPair]:
    return encode_pairs(Letters(), _pairs(*there), max_length=20)[0]


class Encoded(NamedTuple):
    """A conversation as tokens."""

    input_ids: list[int]
    train_mask: list[bool]


class Letters:
    """Every letter is a token."""

    def encode(self, messages: Sequence[Message]) -> Encoded:
        ids = [ord(letter) for m in messages for letter in m.content]
        return Encoded(ids, [m.train for m in messages for _ in m.content])


def test_failures_weigh_as_much_as_successes_where_no_weight_is_given() -> None:
    assert balanced(KTO, _sides("+-", "+", "-", "-", "-")).undesirable_weight == 2 / 4
    assert balanced(KTO, _sides("-", "-")).undesirable_weight == 1.0
    assert balanced(KTO, _sides("+")).undesirable_weight == 1.0


def test_sides_that_are_dropped_do_not_weigh() -> None:
    """Eight of ten failures are too long, and nothing is left of them: ten to two."""
    short, long = _pairs("+", "-"), _pairs("-", words="g" + 90 * "o")
    pairs = [*short[:1] * 10, *short[1:] * 2, *long * 8]
    rows, report = encode_pairs(Letters(), pairs, max_length=20, truncation="cut")
    assert (len(rows), report.dropped) == (12, 8)
    assert balanced(KTO, rows).undesirable_weight == 10 / 2


def test_a_weight_that_is_given_stays() -> None:
    given = replace(KTO, undesirable_weight=0.3)
    assert balanced(given, _sides("+-", "-")) == given
    other = DPOSettings(undesirable_weight=0.0)
    assert balanced(other, _sides("+-")) == other
