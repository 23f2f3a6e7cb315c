"""Fixtures of the ScienceWorld tests: one warm JVM for all of them.

Tests that need the engine are marked `official`, so that they also run where the extras have been
installed for the comparisons.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from eto_gym.envs.scienceworld.session import EngineSession


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "warm_lane" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.official)


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
