"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# A slow machine is no failure: time is limited by the timeout of a test.
settings.register_profile("any-machine", deadline=None)
settings.load_profile("any-machine")
