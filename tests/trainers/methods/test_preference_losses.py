"""What preference losses take from the data that they are given."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch")

from eto_gym.prompt import Message
from eto_gym.trainers.methods.preference_losses import balanced
from eto_gym.trainers.settings.methods import DPOSettings
from eto_gym.trajectories.pairs import PreferencePair

KTO = DPOSettings(loss="kto", undesirable_weight=0.0)


def _sides(*there: str) -> list[PreferencePair]:
    side = (Message("assistant", "go", train=True),)
    return [
        PreferencePair("t", (), side if "+" in name else (), side if "-" in name else ())
        for name in there
    ]


def test_failures_weigh_as_much_as_successes_where_no_weight_is_given() -> None:
    assert balanced(KTO, _sides("+-", "+", "-", "-", "-")).undesirable_weight == 2 / 4
    assert balanced(KTO, _sides("-", "-")).undesirable_weight == 1.0
    assert balanced(KTO, _sides("+")).undesirable_weight == 1.0


def test_a_weight_that_is_given_stays() -> None:
    given = replace(KTO, undesirable_weight=0.3)
    assert balanced(given, _sides("+-", "-")) == given
    other = DPOSettings(undesirable_weight=0.0)
    assert balanced(other, _sides("+-")) == other
