"""Guessed tokens: they change how many passes a reply takes, and nothing that is said."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from typing import Any

import pytest

from eto_gym.agents.policy import Conversation, PolicyReply
from eto_gym.errors import EtoGymError
from eto_gym.prompt import Message

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

# ruff: noqa: E402
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from eto_gym.agents.models.attention import packed_attention
from eto_gym.agents.models.decoding import Decoder
from eto_gym.agents.models.local import LocalPolicy
from eto_gym.agents.models.lookup import Lookup
from tests.agents.models.small_models import CODEC, hello, make_model, observation, policy


def test_a_guess_is_what_followed_the_longest_run_that_stood_before() -> None:
    lookup = Lookup([1, 2, 3, 4, 9, 2, 3, 5, 1, 2, 3])
    assert lookup.guess(2) == [4, 9], "after 1, 2, 3, and not what followed 2, 3 last"
    assert lookup.guess(99) == [4, 9, 2, 3, 5, 1, 2, 3]
    lookup.add(7)
    assert lookup.guess(2) == []
    lookup.add(3)
    assert lookup.guess(2) == [7, 3], "after 3 alone, where it stood last"
    assert Lookup([]).guess(3) == []
    assert Lookup([1, 1]).guess(3) == [1]


class Foretold:
    """Knows what is said, and guesses it with errors; each has numbers of its own."""

    known: dict[tuple[int, ...], list[int]]

    def __init__(self, ids: list[int]) -> None:
        self.ids, self.start = list(ids), tuple(ids)
        self.chance = random.Random(len(ids))

    def add(self, token: int) -> None:
        self.ids.append(token)

    def guess(self, count: int) -> list[int]:
        said = self.known[self.start][len(self.ids) - len(self.start) :]
        right = said[: self.chance.randrange(count + 2)]
        wrong = [self.chance.randrange(len(CODEC.tokenizer)) for _ in range(count)]
        return [*right, *wrong][: self.chance.randrange(count + 1)]


def known(replies: Iterable[PolicyReply]) -> dict[tuple[int, ...], list[int]]:
    return {tuple(r.prompt_ids or ()): list(r.token_ids or ()) for r in replies}


def play(acting: LocalPolicy) -> list[list[PolicyReply]]:
    """Play episodes of different length at once; return the replies turn by turn."""
    rules = Message("user", "The rules of this house. " * 3)
    talks = {i: [rules, *hello(i)] for i in range(6)}
    turns = []
    for turn in range(1, 5):
        talks = {i: talk for i, talk in talks.items() if turn <= 2 + i % 3}
        replies = acting.act([Conversation(str(i), talk, seed=i) for i, talk in talks.items()])
        for (i, talk), reply in zip(talks.items(), replies, strict=True):
            talk += [Message("assistant", reply.text, train=True), observation(i, turn)]
        turns.append(replies)
    return turns


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}, {"stop": ["e"]}])
def test_what_is_said_does_not_depend_on_guesses(
    kind: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(kind)
    options = {**options, "tokens": "logprobs"}
    expected = play(policy(model, lookup=0, **options))
    Foretold.known = known(itertools.chain(*expected))
    passes: list[None] = []
    model.register_forward_hook(lambda *_: passes.append(None))
    play(policy(model, lookup=0, **options))
    alone = len(passes)
    for lookup in (0, 1, 2, 5):
        monkeypatch.setattr("eto_gym.agents.models.decoding.Lookup", Foretold if lookup else None)
        passes.clear()
        for said, wanted in zip(
            play(policy(model, lookup=lookup, **options)), expected, strict=True
        ):
            for reply, true in zip(said, wanted, strict=True):
                assert (reply.text, reply.token_ids) == (true.text, true.token_ids)
                assert reply.truncated == true.truncated
                assert reply.logprobs == pytest.approx(true.logprobs, abs=1e-4)
        assert (len(passes) < alone) == bool(lookup)


class Eager(Foretold):
    """Guesses as many as it is asked for."""

    def guess(self, count: int) -> list[int]:
        return [0] * count


def test_by_itself_the_player_guesses_fewer_the_more_conversations_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("eto_gym.agents.models.decoding.Lookup", Eager)
    passes: set[tuple[int, int]] = set()  # rows, and guesses of the row with the most
    step = Decoder._step

    def counted(self: Decoder, jobs: Any, starts: Any, at: Any, guesses: Any) -> Any:
        passes.add((len(jobs), max(map(len, guesses))))
        return step(self, jobs, starts, at, guesses)

    monkeypatch.setattr(Decoder, "_step", counted)
    rules = Message("user", "The rules of this house.")
    talks = [Conversation(str(i), [rules, *hello(i)], seed=i) for i in range(40)]

    def played(model: Any, conversations: int) -> set[tuple[int, int]]:
        passes.clear()
        policy(model, temperature=1.0).act(talks[:conversations])
        return passes.copy()

    model = make_model("llama")
    many = played(model, 40)
    assert {most for rows, most in many if rows > 32} == {0}
    assert {most for rows, most in many if 16 < rows <= 32} == {1}  # as replies end
    assert all(most <= min(4, 32 // rows) for rows, most in many)
    assert max(most for _, most in played(model, 5)) == 4
    for other in (make_model("llama").to(torch.bfloat16), make_model("mistral-sliding")):
        assert {most for _, most in played(other, 5)} == {0}


def test_a_row_at_the_end_of_the_context_reads_no_position_beyond_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make_model("gpt2")  # whose positions are an embedding of 512 rows
    long = [Message("user", "go " * 300)]
    while len(CODEC.generation_prompt(long)) < 506:
        long[0] = Message("user", long[0].content + "go ")
    talks = [Conversation("long", long), Conversation("short", [Message("user", "go go go")])]
    expected = policy(model, lookup=0, tokens="ids").act(talks)
    assert len(expected[0].prompt_ids or ()) > 505
    Foretold.known = known(expected)
    monkeypatch.setattr("eto_gym.agents.models.decoding.Lookup", Foretold)
    for lookup in (3, 9):
        got = policy(model, lookup=lookup, tokens="ids").act(talks)
        assert [r.token_ids for r in got] == [r.token_ids for r in expected]


def test_guesses_need_rows_that_may_differ_in_length() -> None:
    model = make_model("mistral-sliding")
    with pytest.raises(EtoGymError, match=r"lookup=2 needs full attention by SDPA .*Mistral"):
        policy(model, lookup=2)
    with pytest.raises(EtoGymError, match="expected compile or lookup, got both"):
        policy(lookup=1, compile=True)
    with pytest.raises(EtoGymError, match="expected lookup"):
        policy(lookup=-1)


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("queries", [1, 3])
def test_packed_heads_attend_as_those_of_transformers(heads: tuple[int, int], queries: int) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Module()
    layer.num_key_value_groups = heads[0] // heads[1]
    query = torch.randn(2, heads[0], queries, 8)
    key, value = torch.randn(2, heads[1], 9, 8), torch.randn(2, heads[1], 9, 8)
    mask = torch.rand(2, 1, queries, 9) > 0.3
    mask[..., 0] = True
    given = (layer, query, key, value)
    for options in ({"scaling": 0.3}, {"scaling": None}):
        out, weights = packed_attention(*given, mask, **options)
        assert weights is None
        torch.testing.assert_close(out, sdpa_attention_forward(*given, mask, **options)[0])
    torch.testing.assert_close(
        packed_attention(*given, None)[0], sdpa_attention_forward(*given, None)[0]
    )


def test_a_mask_is_that_of_its_pass_though_layers_share_what_is_made_of_it() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Module()
    for dtype, groups in ((torch.float32, 2), (torch.float32, 4), (torch.bfloat16, 4)):
        layer.num_key_value_groups = groups
        query = torch.randn(2, 4, 1, 8, dtype=dtype)
        key = torch.randn(2, 4 // groups, 9, 8, dtype=dtype)
        mask = torch.ones(2, 1, 1, 9, dtype=torch.bool)
        for hidden in (3, 5):  # a mask at the same place in memory is another pass's
            seen = mask.clone()
            seen[..., hidden:] = False
            for _ in range(2):
                out, _ = packed_attention(layer, query, key, key, seen)
                expected, _ = sdpa_attention_forward(layer, query, key, key, seen)
                torch.testing.assert_close(out, expected)
            del seen
