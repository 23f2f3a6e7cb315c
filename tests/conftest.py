"""What holds for all tests."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from eto_gym.envs.scienceworld.session import EngineSession

# A slow machine is no failure: time is limited by the timeout of a test.
settings.register_profile("any-machine", deadline=None)
settings.load_profile("any-machine")


_MANY_MODULES = 50
_spared = 0


def pytest_runtest_setup() -> None:
    """Spare what was imported from every later garbage collection: each training asks for one."""
    global _spared
    if len(sys.modules) > _spared + _MANY_MODULES:
        _spared = len(sys.modules)
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_disks() -> Iterator[None]:
    """What is killed loses nothing that it wrote, synchronised or not; only a machine does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def one_lane() -> Iterator[None]:
    """One JVM for all of a process, as on one core, unless a test asks for more.

    The second one would start anew for every handful of episodes, which takes longer than they do.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eto_gym.envs.scienceworld.pool.default_lanes", lambda: 1)
        yield


@pytest.fixture(scope="session")
def warm_lane() -> Iterator[EngineSession]:
    """Keep the first shared lane's JVM running between tests, which spares its start."""
    pytest.importorskip("scienceworld")
    from eto_gym.envs.scienceworld.session import EngineSession

    session = EngineSession(lanes=1)
    session.load("boil", 0, "easy")
    yield session
    session.close()


@pytest.fixture
def warm_engine(request: pytest.FixtureRequest) -> None:
    """Do so where one of the test's parameters is ScienceWorld."""
    parameters = request.node.callspec.params.values()
    if any("scienceworld" in str(value).lower() for value in parameters):
        request.getfixturevalue("warm_lane")
