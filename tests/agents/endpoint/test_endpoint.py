"""The policy behind endpoints: what it sends, and what comes back."""

from __future__ import annotations

import http.client
import re
import socket
from typing import Any

import pytest

from eto_gym.agents.policy import Conversation
from eto_gym.errors import EtoGymError, UnknownNameError
from eto_gym.prompt import Message
from eto_gym.testing.fake_endpoint import STATUS, FakeEndpoint
from tests.agents.endpoint.endpoints import FAST, once, talk

pytest.importorskip("openai")

from eto_gym.agents.endpoint.client import NOTHING_SAID
from eto_gym.agents.endpoint.policy import EndpointPolicy
from eto_gym.agents.endpoint.pool import normalize_urls


def test_sends_the_conversation_and_the_options(fake: FakeEndpoint, connect: Any) -> None:
    policy = connect(
        fake, temperature=0.5, top_p=0.9, max_new_tokens=7, stop=["\nObs"], extra_body={"top_k": 5}
    )
    fake.answer = lambda body: "Action: go\nObservation: made up"
    conversation = Conversation(
        "a",
        [
            Message("system", "Rules"),
            Message("user", "a \ud800 b"),
            Message("assistant", "x", train=True),
            Message("user", "é"),
        ],
        seed=3,
    )
    assert policy.act([conversation])[0].text == "Action: go"
    (body,) = fake.requests
    assert 0 <= body.pop("seed") < 2**31
    assert body == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Rules"},
            {"role": "user", "content": "a ? b"},
            {"role": "assistant", "content": "x"},
            {"role": "user", "content": "é"},
        ],
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 7,
        "stop": ["\nObs"],
        "top_k": 5,
    }


def test_seeds_are_the_episodes_and_the_turns(fake: FakeEndpoint, connect: Any) -> None:
    sampled = connect(fake, temperature=1.0)
    talks = [talk(key=f"{s}{n}", seed=s, turns=n) for s in (1, 2) for n in (0, 1, 2)]
    sampled.act(talks)
    sampled.act(talks[::-1])
    seeds = {(len(body["messages"]), body["seed"]) for body in fake.requests}
    assert len(seeds) == len({seed for _, seed in seeds}) == 6
    fake.requests.clear()
    connect(fake).act(talks)
    connect(fake, temperature=1.0, send_seed=False, limit_field="max_completion_tokens").act(talks)
    assert not any("seed" in body for body in fake.requests)
    assert "max_completion_tokens" in fake.requests[-1]


def test_what_says_nothing_or_is_refused_is_left_out(fake: FakeEndpoint, connect: Any) -> None:
    connect(fake).act([talk()])
    connect(fake, temperature=0.5).act([talk()])
    refused = "temperature, max_tokens,stop"
    policy = connect(fake, temperature=0.5, top_p=0.9, stop=["!"], leave_out=refused)
    fake.answer = lambda body: "Action: go!"
    assert policy.act([talk()])[0].text == "Action: go", "a stop holds where it is not sent"
    fields = [body.keys() - {"model", "messages"} for body in fake.requests]
    assert fields == [
        {"temperature", "max_tokens"},
        {"temperature", "max_tokens", "seed"},
        {"top_p", "seed"},
    ]
    with pytest.raises(UnknownNameError, match="leave_out"):
        connect(fake, leave_out=["top-p"])


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        ("`temperature` and `top_p` cannot both be specified", "leave_out=temperature,top_p"),
        ("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens'", "limit_field=max_com"),
        ("'stop' is not supported with this model", "leave_out=stop"),
    ],
)
def test_a_refused_field_is_named_with_its_remedy(
    fake: FakeEndpoint, connect: Any, monkeypatch: pytest.MonkeyPatch, message: str, remedy: str
) -> None:
    monkeypatch.setitem(STATUS, "field", (400, {}, {"error": {"message": message}}))
    fake.choose = lambda body: "field"
    policy = connect(fake, temperature=0.5, top_p=0.9, stop=["!"])
    with pytest.raises(EtoGymError, match=re.escape(remedy)):
        policy.act([talk(i) for i in range(3)])


def test_an_empty_reply_leaves_the_rest_of_the_episode_playable(
    fake: FakeEndpoint, connect: Any
) -> None:
    """Servers that take empty messages get them; those that refuse get words instead, for good."""
    messages = [Message("user", "Task"), Message("assistant", " \n"), Message("user", "Hm")]
    talks = [Conversation(f"e{i}", messages, seed=0) for i in range(2)]
    connect(fake).act(talks[:1])
    assert [m["content"] for m in fake.requests.pop()["messages"]] == ["Task", " \n", "Hm"]
    fake.choose = lambda body: (
        None if all(m["content"].strip() for m in body["messages"]) else "refused"
    )
    policy = connect(fake)
    for conversation in talks:
        assert policy.act([conversation])[0].error is None
    contents = [body["messages"][1]["content"] for body in fake.requests]
    assert contents == [" \n", NOTHING_SAID, NOTHING_SAID]
    fake.choose = lambda body: "refused"
    assert connect(fake).act(talks[:1])[0].error == "policy"


def test_the_clients_own_streams_read_the_fake_endpoint(fake: FakeEndpoint) -> None:
    import openai

    client = openai.OpenAI(base_url=fake.url, api_key="none", max_retries=0)
    asked: Any = {"model": "m", "messages": [{"role": "user", "content": "Hm"}], "temperature": 0}
    whole = client.chat.completions.create(**asked)
    fake.answer = lambda body: "Action: go to  desk 1"
    chunks = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    client.close()
    assert whole.id
    assert whole.created
    assert whole.model == "m"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "Action: go to  desk 1"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage.completion_tokens == 3
    assert len({(c.id, c.created, c.model) for c in chunks}) == 1


def test_a_fake_endpoint_that_is_down_answers_nobody_and_keeps_its_port(
    fake: FakeEndpoint,
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", fake.port, timeout=20)

    def ask() -> int:
        connection.request("POST", "/v1/chat/completions", b'{"messages": [], "temperature": 0}')
        answer = connection.getresponse()
        answer.read()
        return answer.status

    assert ask() == 200
    fake.stop()
    with pytest.raises(ConnectionError):  # the connection that is open breaks
        ask()
    connection.close()
    with pytest.raises(ConnectionRefusedError):
        ask()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", fake.port))
    connection.close()
    fake.start()
    assert ask() == 200
    assert len(fake.requests) == 2
    connection.close()


def test_counts_tokens_per_reply_and_in_total(fake: FakeEndpoint, connect: Any) -> None:
    policy = connect(fake)
    fake.usage = {
        "prompt_tokens": 10,
        "completion_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 8},
    }
    usage = {"requests": 1, "prompt_tokens": 10, "prefilled_tokens": 2, "decoded_tokens": 3}
    assert policy.act([talk()])[0].usage == usage
    fake.usage = {"prompt_tokens": "many", "completion_tokens": -1}
    assert policy.act([talk()])[0].usage == {"requests": 1}
    fake.usage, fake.choose = None, once("500", "429")
    retried = policy.act([talk()])[0]
    assert retried.usage == {"requests": 3, "prompt_tokens": 10, "decoded_tokens": 3}
    assert policy.usage == {
        "replies": 3,
        "requests": 5,
        "prompt_tokens": 20,
        "prefilled_tokens": 2,
        "decoded_tokens": 6,
        "faults: server": 1,
        "faults: rate limit": 1,
    }


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": None, "refusal": "I will not"}, "I will not"),
        ({"content": None, "tool_calls": []}, ""),
        ({"content": "Action: \ud800"}, "Action: \ud800"),
        (
            {"content": [{"type": "text", "text": "Action"}, {"type": "text", "text": ": go"}]},
            "Action: go",
        ),
        ({"content": ["Action: ", {"type": "refusal", "refusal": "no"}]}, "Action: no"),
        ({"content": [{"type": "image_url", "image_url": {}}]}, ""),
        ({"content": []}, ""),
    ],
)
def test_any_reply_is_a_reply(
    fake: FakeEndpoint, connect: Any, message: dict[str, Any], text: str
) -> None:
    fake.message = message
    assert connect(fake).act([talk()])[0].text == text


@pytest.mark.parametrize(
    ("fields", "reasoning"),
    [
        ({"reasoning": "Hm", "reasoning_content": None}, "Hm"),
        ({"reasoning_content": "Hm"}, "Hm"),
        ({"content": [{"type": "thinking", "thinking": "Hm"}]}, "Hm"),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}]}, "Hm"),
        ({"reasoning": {"effort": "low"}}, ""),
        ({}, ""),
    ],
)
def test_reasoning_is_kept_apart_from_the_reply(
    fake: FakeEndpoint, connect: Any, fields: dict[str, Any], reasoning: str
) -> None:
    fake.message = {"content": None, **fields}
    reply = connect(fake).act([talk()])[0]
    assert (reply.text, reply.reasoning, reply.truncated) == ("", reasoning, False)
    fake.finish_reason = "length"
    assert connect(fake, max_new_tokens=3).act([talk()])[0].truncated


def test_full_contexts_are_told_by_tokens(fake: FakeEndpoint, connect: Any) -> None:
    conversation = talk()
    for prompt, decoded, error in ((60, 4, None), (60, 5, "context"), (64, 0, "context")):
        fake.usage = {"prompt_tokens": prompt, "completion_tokens": decoded}
        assert connect(fake, context=64).act([conversation])[0].error == error
    fake.finish_reason = "length"
    for decoded, error in ((8, None), (7, "context")):
        fake.usage = {"prompt_tokens": 60, "completion_tokens": decoded}
        assert connect(fake, max_new_tokens=8).act([conversation])[0].error == error
    # A server that was told no limit has one of its own, which says nothing of the context.
    free = connect(fake, max_new_tokens=8, leave_out="max_tokens").act([conversation])[0]
    assert (free.error, free.truncated) == (None, True)


def test_finds_the_name_of_the_only_model(fake: FakeEndpoint, connect: Any) -> None:
    fake.models = ["only/one"]
    policy = connect(fake, model=None)
    assert policy.name == policy.model == "only/one"
    fake.models = ["a", "b"]
    with pytest.raises(EtoGymError, match="'a', 'b'"):
        connect(fake, model=None)
    fake.models = None
    with pytest.raises(EtoGymError, match="404"):
        connect(fake, model=None)
    fake.openapi = {"paths": {"/load_model": {}, "/v1/chat/completions": {}}}
    with pytest.raises(EtoGymError, match="transformers serve"):
        connect(fake, model=None)
    fake.stop()
    with pytest.raises(EtoGymError, match="does not answer: ") as told:
        connect(fake, model=None, attempts=2)
    assert "pass model" not in str(told.value)  # a name would not help


def test_wrong_options_are_refused() -> None:
    for wrong in (
        {"temperature": -1},
        {"top_p": 0.0},
        {"max_new_tokens": 0},
        {"attempts": 0},
        {"timeout": 0},
        {"first_wait": 2.0, "max_wait": 1.0},
        {"temperature": "hot"},
        {"top_p": float("nan")},
        {"timeout": "1 s"},
        {"max_new_tokens": 2.5},
        {"context": "long"},
        {"attempts": True},
        {"extra_body": [1]},
        {"stop": [""]},
        {"stop": 3},
        {"per_server": 0},
        {"send_seed": "no"},
        {"leave_out": 3},
        {"leave_out": [1]},
        {"leave_out": "user"},
    ):
        with pytest.raises(EtoGymError) as err:
            EndpointPolicy("localhost:1", "m", **wrong)
        assert "\n" not in str(err.value)
    with pytest.raises(UnknownNameError, match="dialect"):
        EndpointPolicy("localhost:1", "m", dialect="vllm")  # type: ignore[arg-type]
    for urls in ("", "ftp://a/v1", ["http://a", "a/v1"], "http://"):
        with pytest.raises(EtoGymError):
            normalize_urls(urls)
    assert normalize_urls("[::1]:8,https://h/base/v1/") == [
        "http://[::1]:8/v1",
        "https://h/base/v1",
    ]


@pytest.mark.parametrize("path", ["/v1beta/openai", "/api/v3", "/proxy/v1/openai"])
def test_an_address_need_not_end_in_v1(fake: FakeEndpoint, path: str) -> None:
    """Hosted services have their own; a server's description stands beside `/v1` alone."""
    fake.answer = lambda body: "Action: go"
    url = fake.url.removesuffix("/v1") + path
    with EndpointPolicy(url, "m", **FAST) as policy:
        assert policy.act([talk()])[0].text == "Action: go"


def test_a_text_alone_is_one_stop_string(fake: FakeEndpoint, connect: Any) -> None:
    fake.answer = lambda body: "Action: go\nObservation: made up"
    policy = connect(fake, stop="\nObs")
    assert policy.act([talk()])[0].text == "Action: go"
    assert fake.requests[0]["stop"] == ["\nObs"]
