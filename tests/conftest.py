"""What holds for all tests."""

from __future__ import annotations

import gc

from hypothesis import settings

# A slow machine is no failure: time is limited by the timeout of a test.
settings.register_profile("any-machine", deadline=None)
settings.load_profile("any-machine")


def pytest_collection_finish() -> None:
    """Spare what was imported from every later garbage collection: trainers ask for many."""
    gc.collect()
    gc.freeze()
