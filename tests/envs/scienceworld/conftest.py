"""Fixtures of the ScienceWorld tests: one warm JVM for all of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from eto_gym.envs.scienceworld.session import EngineSession


@pytest.fixture(scope="session")
def warm_lane() -> Iterator[EngineSession]:
    """Keep the first shared lane's JVM running between tests, which spares its start."""
    pytest.importorskip("scienceworld")
    session = EngineSession(lanes=1)
    session.load("boil", 0, "easy")
    yield session
    session.close()


@pytest.fixture
def session(warm_lane: EngineSession) -> Iterator[EngineSession]:
    """A session on the warm lane."""
    session = EngineSession(lanes=1)
    yield session
    session.close()
