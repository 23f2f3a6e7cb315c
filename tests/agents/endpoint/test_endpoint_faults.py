"""The policy behind endpoints, against servers that break in every way."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import logging
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from eto_gym.agents.policies import endpoint_policy
from eto_gym.agents.policy import PolicyReply
from eto_gym.agents.rollout.collect import RolloutSpec, collect
from eto_gym.agents.rollout.engine import plan_episodes
from eto_gym.errors import EtoGymError
from eto_gym.testing.fake_endpoint import BODIES, FakeEndpoint
from eto_gym.trajectories import Trajectory, TrajectoryStore
from tests.agents.endpoint.endpoints import FAST, once, talk
from tests.toy import CORRIDOR

pytest.importorskip("openai")

from eto_gym.agents.endpoint.answers import read_completion
from eto_gym.agents.endpoint.faults import FaultError, from_status, retry_after
from eto_gym.agents.endpoint.policy import EndpointPolicy

PASSING = ["429", "429 after 300 ms", "500", "503", "disconnect", "reset", "close"]


@pytest.mark.parametrize(
    "fault",
    [*PASSING, "429 after 0.3", *sorted(BODIES), "huge", "endless", "packed"],
)
def test_every_passing_fault_is_outlasted(fake: FakeEndpoint, connect: Any, fault: str) -> None:
    fake.choose = once(fault, fault)
    expected = fake.answer({"messages": [{"role": "user", "content": "Task 0."}], "temperature": 0})
    began = time.monotonic()
    reply = connect(fake, attempts=3).act([talk()])[0]
    assert reply.text == expected
    assert reply.usage["requests"] == 3
    if "after" in fault:
        assert time.monotonic() - began >= 0.6


def test_a_date_to_retry_after_is_honoured(fake: FakeEndpoint, connect: Any) -> None:
    fake.choose = once("429 at a date")
    policy = connect(fake)
    wanted = time.time() + 0.001
    assert policy.act([talk()])[0].error is None
    assert time.time() >= int(wanted)  # dates have whole seconds: up to one of them is lost
    for value, least, most in (
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0, 0.0),
        ("120", 120.0, 120.0),
        ("-3", 0.0, 0.0),
    ):
        seconds = retry_after({"retry-after": value})
        assert seconds is not None
        assert least <= seconds <= most
    soon = formatdate(time.time() + 90, usegmt=True)
    assert 85 < (retry_after({"retry-after": soon}) or 0) < 95
    for value in ("soon", "nan", "inf"):
        assert retry_after({"retry-after": value}) is None


def test_a_list_of_models_that_never_ends_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def trickle() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection, contextlib.suppress(OSError):
                        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
                        while True:
                            connection.sendall(b" ")
                            time.sleep(0.02)

        threading.Thread(target=trickle, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        with pytest.raises(EtoGymError, match="list its models: no answer within 0"):
            EndpointPolicy(url, None, **{**FAST, "timeout": 0.2, "attempts": 2})
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("fault", ["stall", "trickle"])
def test_slow_answers_time_out_and_are_tried_again(
    fake: FakeEndpoint, connect: Any, fault: str
) -> None:
    fake.choose = once(fault)
    reply = connect(fake, timeout=1.0).act([talk()])[0]
    assert reply.error is None
    assert reply.usage["requests"] >= 2


@pytest.mark.parametrize(
    ("fault", "error", "requests"),
    [
        ("429", "policy", 3),
        ("500", "policy", 3),
        ("close", "policy", 3),
        ("empty choices", "policy", 3),
        ("stall", "timeout", 3),
        ("context", "context", 1),
        ("refused", "policy", 1),
    ],
)
def test_a_conversation_that_always_fails_is_an_error_of_its_kind(
    fake: FakeEndpoint, connect: Any, fault: str, error: str, requests: int
) -> None:
    fake.choose = lambda body: fault if "Task 7" in str(body) else None
    policy = connect(fake, attempts=3, timeout=1.0 if fault == "stall" else 20.0)
    replies = policy.act([talk(i) for i in range(12)])
    assert [i for i, reply in enumerate(replies) if reply.error is not None] == [7]
    assert replies[7] == PolicyReply("", {"requests": requests}, error=error)  # type: ignore[arg-type]
    assert policy.usage[f"errors: {error}"] == 1
    assert policy.usage["replies"] == 11


@pytest.mark.parametrize("fault", ["no key", "no model", "quota"])
def test_a_wrong_set_up_stops_at_once(fake: FakeEndpoint, connect: Any, fault: str) -> None:
    fake.choose = lambda body: fault
    with pytest.raises(EtoGymError, match="does not serve 'm'"):
        connect(fake).act([talk(i) for i in range(3)])
    assert len(fake.requests) <= 3


def test_refusals_before_any_reply_are_the_set_up(fake: FakeEndpoint, connect: Any) -> None:
    fake.choose = lambda body: "refused"
    policy = connect(fake)
    assert [policy.act([talk(i)])[0].error for i in range(2)] == ["policy", "policy"]
    with pytest.raises(EtoGymError, match="no such field"):
        policy.act([talk(2)])
    fake.choose = lambda body: None
    policy.act([talk(3)])
    fake.choose = lambda body: "refused"
    assert [reply.error for reply in policy.act([talk(i) for i in range(5)])] == ["policy"] * 5


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens",
        "The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
        "The input (5000 tokens) is longer than the model's context length (4096 tokens).",
        "the request exceeds the available context size. try increasing the context size",
        "Requested tokens (516) exceed context window of 512",
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000",
        "The input token count (1049000) exceeds the maximum number of tokens allowed (1048576).",
        "prompt is too long: 200100 tokens > 200000 maximum",
        "Your input exceeds the context window of this model. Please adjust your input",
        "Input tokens exceed the configured limit of 272000 tokens. Your messages had 300000",
        "The prompt (total length 5000) is too long to fit into the model (context length 4096)",
        "Input length (5000 tokens) exceeds the maximum allowed length (4096 tokens)",
        "Context size has been exceeded.",
        "the input length exceeds the context length",
        "Trying to keep the first 5000 tokens when context overflows. However, the model is loaded",
        "The number of tokens to keep from the initial prompt is greater than the context length",
        "Input validation error: `inputs` must have less than 1024 tokens. Given: 1500",
        "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000",
        "Input is too long for requested model.",
        "Prompt contains 40000 tokens, too large for model with 32768 maximum context length",
        "too many tokens: total number of tokens in the prompt cannot exceed 4081",
        "Please reduce the length of the messages or completion.",
        "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",
        "Range of input length should be [1, 30720]",
        "Prompt exceeds max length",
        "Your request exceeded model token limit: 8192 (requested: 9000)",
        "Prompt length (5000) exceeds maximum input length (4096)",
        "The sum of prompt length (5000), query length (0) should not exceed max_num_tokens (4096)",
        "Request prompt has 5000 tokens in total, larger than the model input length limit 4096.",
        "context window exceeds limit (2013)",
        "prompt token count of 70000 exceeds the limit of 64000",
        "Prompt length 5000 is greater than max_seq_len 4096",
    ],
)
def test_knows_a_full_context_in_every_servers_words(message: str) -> None:
    body = json.dumps({"error": {"message": message}})
    for status in (400, 413, 500):
        assert from_status(status, body, {}).kind == "context"
    assert from_status(429, body, {}).kind == "rate limit"
    assert (
        from_status(400, '{"error": {"message": "top_p must be in (0, 1]"}}', {}).kind == "refused"
    )


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("`max_tokens` is too large: 5000. This model supports at most 4096 completion tokens", 0),
        ("Rate limit reached: tokens per minute (TPM) limit 6000, requested 9000", 0),
        ("stop: too many sequences", 0),
    ],
)
def test_takes_nothing_else_for_a_full_context(words: str, kind: int) -> None:
    body = json.dumps({"error": {"message": words}})
    assert from_status(400, body, {}).kind == "refused"


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_a_reply_that_the_server_broke_off_is_asked_for_again(
    fake: FakeEndpoint, connect: Any, reason: str
) -> None:
    def whole(body: dict[str, Any]) -> str:
        fake.finish_reason = reason if len(fake.requests) < 3 else "stop"
        return "Action: go"

    fake.answer = whole
    reply = connect(fake, attempts=3).act([talk()])[0]
    assert (reply.text, reply.error, reply.usage["requests"]) == ("Action: go", None, 3)
    fake.answer, fake.finish_reason = (lambda body: "Acti"), reason
    assert connect(fake, attempts=2).act([talk()])[0].error == "policy"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"code": 429, "message": "slow down"}, "rate limit"),
        ({"code": "400", "message": "maximum context length is 4096"}, "context"),
        ({"code": "bad", "message": "Provider returned error"}, "server"),
        ("overloaded", "server"),
    ],
)
def test_an_error_that_comes_as_a_success_is_its_kind(error: Any, kind: str) -> None:
    with pytest.raises(FaultError) as caught:
        read_completion(json.dumps({"error": error}).encode())
    assert caught.value.fault.kind == kind


def test_the_key_is_sent_and_never_logged(
    fake: FakeEndpoint, connect: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setenv("MY_KEY", " sk-secret-1234\n")
    caplog.set_level(logging.DEBUG)
    policy = connect(fake, api_key_env="MY_KEY")
    fake.choose = once("429", "malformed")
    policy.act([talk()])
    fake.choose = lambda body: "echo key"
    with pytest.raises(EtoGymError, match="bad key Bearer <API key>"):
        policy.act([talk()])
    assert {headers["authorization"] for headers in fake.headers} == {"Bearer sk-secret-1234"}
    assert caplog.records
    assert "sk-secret" not in caplog.text
    assert "sk-secret" not in repr(vars(policy))


# --- several servers -----------------------------------------------------------------------------


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


# --- whole rollouts ------------------------------------------------------------------------------


def spec(*endpoints: FakeEndpoint, workers: int = 1, **options: Any) -> RolloutSpec:
    urls = [endpoint.url for endpoint in endpoints]
    policy = functools.partial(endpoint_policy, urls, "m", **{**FAST, **options})
    return RolloutSpec(CORRIDOR, policy, prompt_style="none", slots=32, workers=workers)


def without_usage(trajectories: list[Trajectory]) -> list[Any]:
    """Leave out what faults may change: tokens, and what is known of how a reply came about."""
    return [{**t.to_json(), "usage": None, "facts": None} for t in trajectories]


class _Away:
    """Has a server go away and come back by what is asked, however long that takes."""

    SOME = 12

    def __init__(self, server: FakeEndpoint, choose: Callable[[dict[str, Any]], Any]) -> None:
        self.server, self.choose, self.lock = server, choose, threading.Lock()
        self.times = self.answers = self.others = 0

    def asked(self, body: dict[str, Any]) -> Any:
        """Choose the fault of a request to the server; some end it."""
        with self.lock:
            if self.server.ready.is_set():
                self.answers += 1
                if self.answers % self.SOME == 0:
                    self.times += 1
                    self.server.stop()
        return self.choose(body)

    def meanwhile(self, body: dict[str, Any]) -> Any:
        """Choose the fault of a request to another server; some begin it anew."""
        with self.lock:
            if not self.server.ready.is_set():
                self.others += 1
                if self.others % self.SOME == 0:
                    self.server.start()
        return self.choose(body)


def test_a_rollout_through_every_fault_loses_nothing(tmp_path: Path) -> None:
    episodes = plan_episodes([f"door-{i % 4}/{i}" for i in range(24)], samples=4, seed=5)
    with FakeEndpoint() as well:
        expected = collect(spec(well, temperature=1.0), episodes)
    assert len({t.success for t in expected}) == 2
    chance = random.Random(1)
    faults = itertools.cycle([*PASSING, *sorted(BODIES)])

    def choose(body: dict[str, Any]) -> str | None:
        return next(faults) if chance.random() < 0.3 else None

    store = TrajectoryStore(tmp_path / "t.jsonl")
    with FakeEndpoint() as a, FakeEndpoint() as b, FakeEndpoint() as flapping:
        away = _Away(flapping, choose)
        flapping.choose, a.choose, b.choose = away.asked, away.meanwhile, away.meanwhile
        playing = spec(a, b, flapping, temperature=1.0, timeout=60.0, attempts=1000)
        results = collect(playing, episodes, store=store)
        assert min(len(a.requests), len(b.requests)) > 25
    assert away.times > 1, "it is not asked again when it is back"
    assert without_usage(results) == without_usage(expected)
    assert Counter(t.key for t in store.load()) == Counter(e.key for e in episodes)
    assert sum(t.usage["requests"] - len(t.steps) for t in results) > 50


def test_hopeless_episodes_are_errors_and_are_played_again(
    fake: FakeEndpoint, tmp_path: Path
) -> None:
    episodes = plan_episodes([f"door-{i % 4}/{i}" for i in range(24)], samples=2, seed=5)
    hopeless = {"door 0": "context", "door 1": "500", "door 3": "504"}

    def choose(body: dict[str, Any]) -> str | None:
        task = body["messages"][0]["content"].partition("open ")[2].rstrip(".")
        # From the second turn on: an episode may fail in its middle.
        return hopeless.get(task) if len(body["messages"]) > 1 else None

    fake.choose = choose
    fake.answer = lambda body: "Action: go"
    store = TrajectoryStore(tmp_path / "t.jsonl")
    playing = functools.partial(spec, fake, attempts=2, timeout=60.0)
    results = collect(playing(), episodes, store=store)
    assert [t.key for t in results] == [e.key for e in episodes]
    assert Counter((t.task_type, t.error) for t in results) == {
        ("door-0", "context"): 12,
        ("door-1", "policy"): 12,
        ("door-2", None): 12,
        ("door-3", "timeout"): 12,
    }
    fake.choose = lambda body: None
    again = collect(playing(workers=2), episodes, store=store)
    assert not any(t.failed_to_run for t in again)
    done = [t for t in results if t.error is None]
    assert [t for t in again if t.task_type == "door-2"] == done
    assert Counter(t.key for t in store.load()) == {
        episode.key: 1 if episode.task_id.startswith("door-2") else 2 for episode in episodes
    }
