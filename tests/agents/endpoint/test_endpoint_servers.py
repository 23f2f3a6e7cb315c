"""The policy over several servers: whom it asks, and what it does while one is away."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from eto_gym.errors import EtoGymError
from eto_gym.testing.fake_endpoint import FakeEndpoint
from tests.agents.endpoint.endpoints import once, talk

pytest.importorskip("openai")


def test_the_least_loaded_server_is_asked(connect: Any) -> None:
    enough = threading.Event()

    def at_once(body: dict[str, Any]) -> str:
        if len(quick.requests) >= 36:
            enough.set()
        return "Action: go"

    def at_last(body: dict[str, Any]) -> str:
        assert enough.wait(60)
        return "Action: go"

    with FakeEndpoint(at_once) as quick, FakeEndpoint(at_last) as slow:
        replies = connect(quick, slow, concurrency=8, timeout=60.0).act(
            [talk(i) for i in range(48)]
        )
        assert not any(reply.error for reply in replies)
        assert 3 <= len(slow.requests) < len(quick.requests) / 2
        assert max(quick.most_at_once, slow.most_at_once) <= 8


def test_concurrency_is_bounded(fake: FakeEndpoint, connect: Any) -> None:
    fake.delay = 0.05
    policy = connect(fake, concurrency=5)
    futures = [policy.submit(talk(i)) for i in range(20)]
    policy.act([talk(i) for i in range(20, 40)])
    assert all(future.result().error is None for future in futures)
    assert 2 < fake.most_at_once <= 5
    fake.most_at_once = 0
    connect(fake, concurrency=5, per_server=2).act([talk(i) for i in range(20)])
    assert fake.most_at_once == 2


def test_a_server_that_wants_rest_is_left_alone(connect: Any) -> None:
    with FakeEndpoint() as busy, FakeEndpoint() as free:
        busy.choose = once("429 after 60")
        policy = connect(busy, free, concurrency=1)
        for _ in range(10):
            assert policy.act([talk()])[0].error is None
        assert (len(busy.requests), len(free.requests)) == (1, 10)
        busy.choose = once("429 after 300 ms")
        policy = connect(busy, free, concurrency=1)
        deadline = time.monotonic() + 60
        while len(busy.requests) < 4 and time.monotonic() < deadline:
            assert policy.act([talk()])[0].error is None
        assert len(busy.requests) >= 4, "it is not asked again after its rest"


def test_an_answer_beyond_all_measure_is_not_read(fake: FakeEndpoint, connect: Any) -> None:
    for fault, words in (
        ("huge", "longer than 8 MB"),
        ("endless", "longer than"),
        ("packed", "compressed"),
    ):
        fake.choose = lambda body, fault=fault: fault  # type: ignore[misc]
        with _told() as lines:
            reply = connect(fake, attempts=2).act([talk()])[0]
        assert reply.error == "policy"
        assert any(words in line for line in lines), lines


def test_a_server_that_refuses_connections_is_told_of_at_once(
    fake: FakeEndpoint, connect: Any
) -> None:
    fake.stop()
    policy = connect(fake, attempts=3, first_wait=3.0, max_wait=3.0)
    with _told() as lines:
        waiting = policy.submit(talk())
        began = time.monotonic()
        while not lines and time.monotonic() < began + 60:
            time.sleep(0.02)
        assert not waiting.done(), "it is told before the waits are over"
        waiting.cancel()
    assert fake.url in lines[0]
    assert "trying again in" in lines[0]


def test_where_no_server_ever_was_the_run_stops(connect: Any) -> None:
    # While nothing is known of a server one request at a time tries it: a run of many episodes
    # would have waited for hours before the last of them had used up its attempts.
    with FakeEndpoint() as one, FakeEndpoint() as other:
        one.stop()
        other.stop()
        policy = connect(one, other, attempts=3, first_wait=0.01, max_wait=0.05)
        with pytest.raises(EtoGymError, match="does not answer: ConnectError"):
            policy.act([talk(i) for i in range(50)])
        assert policy.usage["faults: unavailable"] < 20


@contextlib.contextmanager
def _told() -> Iterator[list[str]]:
    """Collect the warnings of the endpoint's modules."""
    lines: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    parent = logging.getLogger("eto_gym.agents.endpoint")
    parent.addHandler(handler)
    try:
        yield lines
    finally:
        parent.removeHandler(handler)


def test_a_dead_server_costs_nothing_and_is_used_when_it_lives_again(connect: Any) -> None:
    with FakeEndpoint() as dead, FakeEndpoint() as alive:
        dead.stop()
        policy = connect(dead, alive, concurrency=4, attempts=4)
        for _ in range(5):
            assert not any(reply.error for reply in policy.act([talk(i) for i in range(20)]))
        assert not dead.requests
        dead.start()
        time.sleep(0.11)  # the longest rest, and its jitter
        for _ in range(5):
            assert not any(reply.error for reply in policy.act([talk(i) for i in range(20)]))
        assert len(dead.requests) > 20


def test_the_only_server_may_be_away_for_a_while(fake: FakeEndpoint, connect: Any) -> None:
    policy = connect(fake, attempts=10_000)
    policy.act([talk(0)])
    fake.stop()  # connections that are open break, too
    timer = threading.Timer(0.3, fake.start)
    timer.start()
    try:
        assert not any(reply.error for reply in policy.act([talk(i) for i in range(10)]))
    finally:
        timer.join()


def test_an_interrupted_call_leaves_nothing_under_way(fake: FakeEndpoint, connect: Any) -> None:
    fake.choose = lambda body: "stall"
    policy = connect(fake, attempts=1, timeout=30.0)
    future = policy.submit(talk())
    while not fake.requests:
        time.sleep(0.005)
    future.cancel()
    fake.choose = lambda body: None
    assert policy.act([talk(1)])[0].error is None
    assert [server.in_flight for server in policy._pool.servers] == [0]


def test_closing_ends_the_thread(fake: FakeEndpoint, connect: Any) -> None:
    def threads() -> int:
        return sum("endpoint" in thread.name for thread in threading.enumerate())

    before = threads()
    with connect(fake) as policy:
        policy.act([talk()])
        assert threads() == before + 1
    policy.close()
    assert threads() == before
    forgotten = connect(fake)
    assert threads() == before + 1
    del forgotten
