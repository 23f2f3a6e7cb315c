"""The policy behind endpoints, against servers that break in every way."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
from email.utils import formatdate
from typing import Any

import pytest

from eto_gym.agents.policy import PolicyReply
from eto_gym.errors import EtoGymError
from eto_gym.testing.fake_endpoint import BODIES, FakeEndpoint
from tests.agents.endpoint.endpoints import FAST, PASSING, once, talk

pytest.importorskip("openai")

from eto_gym.agents.endpoint.answers import read_completion
from eto_gym.agents.endpoint.faults import FaultError, from_status, retry_after
from eto_gym.agents.endpoint.policy import EndpointPolicy


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
