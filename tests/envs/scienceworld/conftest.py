"""Fixtures of the ScienceWorld tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from eto_gym.envs.scienceworld.session import EngineSession


@pytest.fixture
def session(warm_lane: EngineSession) -> Iterator[EngineSession]:
    """A session on the warm lane."""
    session = EngineSession(lanes=1)
    yield session
    session.close()
