"""What several conversations have in common is read once, and their replies stay their own."""

from __future__ import annotations

from typing import Any

import pytest

from eto_gym.agents.policy import Conversation, PolicyReply
from eto_gym.prompt import Message

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

# ruff: noqa: E402
from eto_gym.agents.models.decoding import Job, _by_need
from eto_gym.agents.models.kv import KVRow
from eto_gym.agents.models.local import LocalPolicy
from tests.agents.models.small_models import KINDS, MODEL, generate, hello, make_model, policy

TALK = [Message("user", "The rules of this house. " * 6), *hello(3)]


def counting(model: Any = MODEL, **options: Any) -> tuple[LocalPolicy, list[int]]:
    """Return a policy, and the tokens that it reads of prompts, a number for each pass."""
    acting = policy(model, **options)
    read: list[int] = []
    slices = acting._decoder._read_slice

    def read_slice(jobs: list[Job], rows: slice, query: int) -> Any:
        read.append(len(jobs) * query)
        return slices(jobs, rows, query)

    acting._decoder._read_slice = read_slice  # type: ignore[method-assign]
    return acting, read


def samples(talk: list[Message], count: int) -> list[Conversation]:
    return [Conversation(str(i), talk, seed=i) for i in range(count)]


def reply_alone(conversation: Conversation, **options: Any) -> PolicyReply:
    return policy(**options).act([conversation])[0]


@pytest.mark.parametrize("options", [{}, {"keep_cache": False}])
def test_samples_of_one_prompt_read_it_once(options: dict[str, Any]) -> None:
    acting, read = counting(temperature=1.0, **options)
    replies = acting.act(samples(TALK, 5))
    size = replies[0].usage["prompt_tokens"]
    assert read[-1] <= size
    assert sum(read) <= size + 1, "its last token alone may be read again, for what follows it"
    assert len({reply.text for reply in replies}) > 1
    for conversation, reply in zip(samples(TALK, 5), replies, strict=True):
        assert reply.text == reply_alone(conversation, temperature=1.0).text


@pytest.mark.parametrize("kind", KINDS)
def test_replies_are_those_of_conversations_that_read_alone(kind: str) -> None:
    model = make_model(kind)
    acting, read = counting(model)
    other = [TALK[0], *hello(4)]
    batch = [*samples(TALK, 3), Conversation("o", other), Conversation("p", other)]
    for reply, talk in zip(acting.act(batch), [TALK] * 3 + [other] * 2, strict=True):
        assert reply.text == generate(model, talk)
    # What follows is again the same for some of them, and for others not.
    said = Message("assistant", generate(model, TALK), train=True)
    more = [[*TALK, said, Message("user", text)] for text in ("a cup", "a cup", "a long table")]
    batch = [Conversation(str(i), talk) for i, talk in enumerate(more)]
    del read[:]
    replies = acting.act(batch)
    for reply, talk in zip(replies, more, strict=True):
        assert reply.text == generate(model, talk)
    lacking = [reply.usage["prefilled_tokens"] for reply in replies]
    assert lacking[0] == lacking[1], "what is recorded depends on other conversations"
    assert sum(read) <= 2 * max(lacking)


def test_a_later_sample_takes_over_what_an_earlier_one_reads() -> None:
    acting, read = counting()
    first = acting.act([Conversation("0", TALK)])[0]
    said = Message("assistant", first.text, train=True)
    longer = [*TALK, said, Message("user", "You see a cup, a cup, and a cup on the table.")]
    acting.act([Conversation("0", longer)])
    del read[:]
    again = acting.act([Conversation("1", TALK)])[0]
    assert (again.text, sum(read)) == (first.text, 1)
    del read[:]
    turn = acting.act([Conversation("1", longer)])[0]
    assert turn.text == generate(MODEL, longer)
    assert sum(read) == 1


def test_what_was_taken_over_outlives_its_owner() -> None:
    acting, _ = counting()
    acting.act([Conversation("0", TALK)])
    acting.act([Conversation("1", TALK)])
    edited = [Message("user", "The rules of this house. Nothing else holds. " * 4), *hello(2)]
    acting.act([Conversation("0", edited)])  # written where the other began
    more = [*TALK, Message("assistant", "Action: look", train=True), Message("user", "A cup.")]
    assert acting.act([Conversation("1", more)])[0].text == generate(MODEL, more)


def test_the_one_that_lacks_the_least_computes() -> None:
    def job(held: int, *ids: int) -> Job:
        row = KVRow()
        row.ids = list(ids[:held])
        return Job(list(ids), row, limit=1)

    jobs = [job(0, 1, 2, 3), job(2, 1, 2, 3), job(0, 4, 5), job(1, 1, 2, 3), job(1, 4, 6)]
    ordered, twins = _by_need(jobs)
    assert [j.lacks for j in ordered[:3]] == [2, 1, 1]
    assert {id(j) for j in ordered[3:]} == {id(jobs[0]), id(jobs[3])}
    assert [ordered[twin] for twin in twins] == [jobs[1]] * 2
