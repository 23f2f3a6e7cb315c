"""Pairs for the tests of preference training."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from eto_gym.trainers import make_pairs
from eto_gym.trajectories import Trajectory
from eto_gym.trajectories.pairs import PreferencePair


@pytest.fixture(scope="module")
def pairs(make_play: Callable[..., Trajectory]) -> list[PreferencePair]:
    """Pairs of ten tasks, of one to five turns; fresh ones for each module."""
    agent = [make_play(n, good=False, rounds=1 + n % 5) for n in range(10)]
    made, _ = make_pairs(agent, [make_play(n, rounds=1 + n % 3) for n in range(10)])
    return made
