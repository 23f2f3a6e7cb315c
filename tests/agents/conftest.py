"""Endpoints for the tests of what talks to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from eto_gym.testing.fake_endpoint import FakeEndpoint
from tests.agents.endpoint.endpoints import FAST

if TYPE_CHECKING:
    from eto_gym.agents.endpoint.policy import EndpointPolicy


@pytest.fixture
def fake() -> Iterator[FakeEndpoint]:
    with FakeEndpoint() as endpoint:
        yield endpoint


@pytest.fixture
def connect() -> Iterator[Callable[..., EndpointPolicy]]:
    from eto_gym.agents.endpoint.policy import EndpointPolicy

    made: list[EndpointPolicy] = []

    def make(*endpoints: FakeEndpoint, model: str | None = "m", **options: Any) -> EndpointPolicy:
        urls = [endpoint.url for endpoint in endpoints]
        made.append(EndpointPolicy(urls, model, **{**FAST, **options}))
        return made[-1]

    yield make
    for policy in made:
        policy.close()
