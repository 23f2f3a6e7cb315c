"""Masks of every supported chat template, token by token, against an oracle that reads offsets."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest

from eto_gym.conversation import parse_reply
from eto_gym.errors import EtoGymError
from eto_gym.prompt import Message
from eto_gym.reasoning import split_reasoning
from eto_gym.trainers.data.encoding import encode_pairs, encode_trajectories
from eto_gym.trajectories import Trajectory
from eto_gym.trajectories.pairs import PreferencePair
from tests.agents.models.chat_templates import (
    DEEPSEEK_R1,
    QWEN3,
    REFUSED,
    REWRITING,
    STABLE,
    Family,
)

pytest.importorskip("transformers")

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from eto_gym.agents.models.codec import ChatCodec, RewrittenHistoryError

TALK = (
    Message("user", "The rules of the house.\nReply with an action."),
    Message("assistant", "OK"),
    Message("user", "You see a cup 3. What now?"),
    Message("assistant", "Thought: I take it.\nAction: take cup 3 from shelf 1", train=True),
    Message("user", "Nothing happens."),
    Message("assistant", "Action: look", train=True),
)
SYSTEM = Message("system", "You live in a house.")
TEXTS = [m.content for m in TALK] * 20 + ["user assistant system model ASSISTANT: USER: [INST] x"]
KINDS = ("bytes", "sentencepiece")


@cache
def trained(kind: str) -> str:
    """Train a small BPE: over bytes as GPT-2's, or over words with their space as Llama's."""
    if kind == "bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        tokenizer.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
        alphabet = [chr(i) for i in range(33, 127)] + ["▁"]
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        initial_alphabet=alphabet,
        special_tokens=["<unk>", *(f"<0x{i:02X}>" for i in range(256))] if kind != "bytes" else [],
        show_progress=False,
    )
    pieces = [word for text in TEXTS for word in text.splitlines()]
    tokenizer.train_from_iterator(pieces, trainer)
    state = json.loads(tokenizer.to_str())
    # Bytes are ordinary tokens; the trainer takes them for special ones.
    state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] == "<unk>"]
    return json.dumps(state)


def make_tokenizer(family: Family, kind: str) -> PreTrainedTokenizerFast:
    raw = Tokenizer.from_str(trained(kind))
    raw.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False, rstrip=token in family.rstrip)
            for token in family.specials
        ]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw)  # type: ignore[no-untyped-call]
    tokenizer.chat_template = family.template
    return tokenizer


def make_codec(family: Family, kind: str) -> ChatCodec:
    # A date that follows the calendar would change prompts from day to day.
    return ChatCodec(make_tokenizer(family, kind), template_kwargs={"date_string": "1 Jan 2025"})


def whole(codec: ChatCodec, talk: tuple[Message, ...], *, prompt: bool = False) -> str:
    chat = [{"role": m.role, "content": m.content} for m in talk]
    return str(
        codec.tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=prompt, date_string="1 Jan 2025"
        )
    )


def oracle(codec: ChatCodec, talk: tuple[Message, ...], end: str) -> tuple[list[int], list[bool]]:
    """Tokenise the whole text at once; a token is trained if it begins in a reply's span.

    A reply's span goes from the end of its prompt to the end of its end-of-turn token.
    """
    text = whole(codec, talk)
    spans, position = [], 0
    for i, message in enumerate(talk):
        position = text.index(message.content, position) + len(message.content)
        if message.role == "assistant":
            position = text.index(end, position) + len(end)
            if message.train:
                spans.append((len(whole(codec, talk[:i], prompt=True)), position))
    encoded: Any = codec.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    mask = [any(a <= low < b for a, b in spans) for low, _ in encoded.offset_mapping]
    return encoded.input_ids, mask


CASES = [
    pytest.param(name, kind, talk, id=f"{name}-{kind}{'-system' if talk[0] is SYSTEM else ''}")
    for name, family in STABLE.items()
    for kind in KINDS
    for talk in ([TALK, (SYSTEM, *TALK)] if family.system else [TALK])
]


@pytest.mark.parametrize(("name", "kind", "talk"), CASES)
def test_ids_and_mask_equal_the_whole_conversation(
    name: str, kind: str, talk: tuple[Message, ...]
) -> None:
    family = STABLE[name]
    codec = make_codec(family, kind)
    assert codec.end_of_turn == family.end
    ids, mask = codec.encode(talk)
    all_ids, all_mask = oracle(codec, talk, family.end)
    assert ids == all_ids[: len(ids)]
    assert mask == all_mask[: len(ids)]
    # Only what the template writes after the last reply is left out.
    assert not any(all_mask[len(ids) :])
    left = whole(codec, talk).removesuffix(family.tail)
    assert left.endswith(family.end)
    # What is trained is each reply with its end of turn, as a rollout samples it.
    said = [i for i, kept in zip(ids, mask, strict=True) if kept]
    assert said.count(codec.end_of_turn_id) == sum(m.train for m in talk)
    start, replies = 0, []
    for i, token in enumerate(said, start=1):
        if token == codec.end_of_turn_id:
            replies.append(codec.decode_reply(said[start:i]))
            start = i
    assert replies == [m.content for m in talk if m.train]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", STABLE)
def test_a_rollout_reads_exactly_the_trained_prefix(name: str, kind: str) -> None:
    codec = make_codec(STABLE[name], kind)
    ids, mask = codec.encode(TALK)
    transcript = codec.transcript()
    for i, message in enumerate(TALK):
        if not message.train:
            continue
        prompt = codec.generation_prompt(TALK[:i])
        assert codec.extend(transcript, TALK[:i]) == prompt
        assert ids[: len(prompt)] == prompt
        reply = ids[len(prompt) : ids.index(codec.end_of_turn_id, len(prompt)) + 1]
        assert all(mask[len(prompt) : len(prompt) + len(reply)])
        assert not mask[len(prompt) - 1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", REFUSED)
def test_templates_that_cannot_be_masked_are_refused(name: str, kind: str) -> None:
    family, words = REFUSED[name]
    with pytest.raises(EtoGymError, match=words):
        make_codec(family, kind)


THOUGHT = "<think>\nHm. Action: no\n</think>\n\n"
REWRITTEN: dict[str, tuple[Family, dict[str, Any], str, tuple[Message, ...]]] = {
    "qwen3": (REWRITING["qwen3"], {}, THOUGHT, ()),
    "qwen3, no thoughts": (REWRITING["qwen3"], {"enable_thinking": False}, "", ()),
    "qwen3, spoken at once": (REWRITING["qwen3"], {}, "", ()),
    "deepseek-r1": (REWRITING["deepseek-r1"], {}, THOUGHT, ()),
    "mistral-v3, system": (STABLE["mistral-v3"], {}, "", (SYSTEM,)),
    "mistral-v3": (STABLE["mistral-v3"], {}, "", ()),
    "chatml": (STABLE["chatml"], {}, THOUGHT, ()),
}
"""Template, its variables, what replies begin with, and messages before the conversation."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", REWRITTEN)
def test_training_takes_what_a_rollout_read_and_sampled(name: str, kind: str) -> None:
    family, variables, thought, before = REWRITTEN[name]
    tokenizer = make_tokenizer(family, kind)
    codec = ChatCodec(tokenizer, template_kwargs=variables)
    assert codec.end_of_turn == family.end
    assert codec.rewrites == (family.template in (QWEN3, DEEPSEEK_R1))
    talk, transcript = [*before, *TALK[:3]], codec.transcript()
    sampled = []
    for action in ("take cup 3 from shelf 1", "look", "go"):
        prompt = list(codec.extend(transcript, talk))
        assert prompt == codec.generation_prompt(talk)
        rendered = str(
            tokenizer.apply_chat_template(
                [{"role": m.role, "content": m.content} for m in talk],
                tokenize=False,
                add_generation_prompt=True,
                **variables,
            )
        )
        assert prompt == tokenizer.encode(rendered, add_special_tokens=False)
        # A model says all that its prompt has not said already.
        said = f"{thought}Thought: t\nAction: {action}"
        opened = "<think>\n" if rendered.endswith("<think>\n") else ""
        fresh = codec._lead + said.removeprefix(opened)
        reply = [*codec._tokens.encode(fresh), codec.end_of_turn_id]
        text = codec.decode_reply(reply)
        assert text == said
        sampled.append((prompt, reply))
        talk += [Message("assistant", text, train=True), Message("user", "Nothing happens.")]
    whole = Trajectory("t", "", tuple(talk[:-1]), (), "terminated", 1.0, True)
    rows, report = encode_trajectories(codec, [whole], max_length=2000)
    assert report.trained_tokens == sum(len(reply) for _, reply in sampled)
    found = []
    for ids, mask in rows:
        for place in range(1, len(ids)):
            if mask[place] and not mask[place - 1]:
                stop = next((i for i in range(place, len(ids)) if not mask[i]), len(ids))
                found.append((ids[:place], ids[place:stop]))
    assert found == sampled
    assert len(rows) == (3 if codec.rewrites or before else 1)


def test_a_reply_without_a_thought_closes_the_block_that_its_prompt_opens() -> None:
    codec = make_codec(REWRITING["deepseek-r1"], "bytes")
    talk = (TALK[0], Message("assistant", "Action: look", train=True))
    ids, mask = codec.encode(talk)
    said = codec.decode_reply([i for i, kept in zip(ids, mask, strict=True) if kept])
    assert said == "<think>\n\n</think>\n\nAction: look"
    cut = codec.decode_reply(codec._tokens.encode("Perhaps Action: look"))
    assert split_reasoning(cut).cut
    assert parse_reply(cut) is None
    again, _ = codec.encode((TALK[0], Message("assistant", cut, train=True)))
    assert again[
        -len(codec._tokens.encode("Perhaps Action: look")) - 1 : -1
    ] == codec._tokens.encode("Perhaps Action: look")


def test_a_conversation_is_no_one_row_where_history_is_rewritten() -> None:
    codec = make_codec(REWRITING["qwen3"], "bytes")
    whole = Trajectory("t", "", TALK, (), "terminated", 1.0, True)
    rows, _ = encode_trajectories(codec, [whole], max_length=2000)
    assert len(rows) == 2
    with pytest.raises(RewrittenHistoryError):
        codec.encode(TALK)


def test_thoughts_may_be_read_and_not_trained() -> None:
    for name, begin in (("qwen3", "<think>\nhm\n</think>"), ("deepseek-r1", "<think>\nhm</think>")):
        tokenizer = make_tokenizer(REWRITING[name], "bytes")
        talk = (TALK[0], Message("assistant", begin + "\n\nAction: go", train=True))
        whole, masked = ChatCodec(tokenizer), ChatCodec(tokenizer, mask_thoughts=True)
        (ids, all_marks), (same, marks) = whole.encode(talk), masked.encode(talk)
        assert ids == same
        trained = [i for i, kept in zip(ids, marks, strict=True) if kept]
        hidden = [i for i, a, b in zip(ids, all_marks, marks, strict=True) if a and not b]
        assert str(tokenizer.decode(trained)).lstrip().startswith("Action: go")
        assert "hm" in str(tokenizer.decode(hidden))
        assert trained[-1] == whole.end_of_turn_id
        plain = (TALK[0], Message("assistant", "Action: go", train=True))
        assert masked.encode(plain) == whole.encode(plain)


def test_pairs_have_a_row_per_reply() -> None:
    codec = make_codec(REWRITING["qwen3"], "bytes")
    pair = PreferencePair("t", TALK[:3], TALK[3:], TALK[5:])
    (row,), _ = encode_pairs(codec, [pair], max_length=2000)
    chosen, rejected = row.sides
    assert (len(chosen), len(rejected)) == (2, 1)
    assert chosen[0].ids == list(codec.encode(TALK[:4]).input_ids)
    assert chosen[1].ids[: len(codec.generation_prompt(TALK[:5]))] == codec.generation_prompt(
        TALK[:5]
    )


def test_a_replaced_template_makes_a_rewriting_family_usable() -> None:
    family = REWRITING["qwen3"]
    tokenizer = make_tokenizer(family, "bytes")
    codec = ChatCodec(tokenizer, chat_template=STABLE["chatml"].template)
    talk = (TALK[0], Message("assistant", "<think>\nhm\n</think>\n\ngo", train=True), TALK[2])
    ids, mask = codec.encode(talk)
    said = [i for i, kept in zip(ids, mask, strict=True) if kept]
    assert codec.decode_reply(said) == talk[1].content


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["qwen3", "deepseek-r1"])
def test_a_reply_that_spells_special_tokens_after_its_thought_is_words(
    name: str, kind: str
) -> None:
    """What a template drops of a reply is no reason to lose where the rest of it stands."""
    codec = make_codec(REWRITING[name], kind)
    for token in REWRITING[name].specials:
        for thought in ("<think>\nhm\n</think>\n\n", f"<think>\nhm {token}\n</think>\n\n"):
            words = f"Action: {token} go {token}"
            talk = [TALK[0], Message("assistant", thought + words, train=True), TALK[2]]
            ids = codec.generation_prompt(talk)
            plain = [TALK[0], Message("assistant", thought.replace(token, "hm") + "X"), TALK[2]]
            # A special token's id comes as often as in a reply that spells none.
            special: Any = codec.tokenizer.convert_tokens_to_ids(token)
            assert ids.count(special) == codec.generation_prompt(plain).count(special)
            assert words in str(codec.tokenizer.decode(ids))
            said, mask = codec.encode(talk[:2])
            trained = [i for i, kept in zip(said, mask, strict=True) if kept]
            assert words in str(codec.tokenizer.decode(trained))


@pytest.mark.parametrize(
    "nested", ["<|e<|end|>nd|>", "<|cha<|cha<|end|>nnel|>nnel|>", "<|<|end|>end|>"]
)
def test_what_stood_around_a_mark_makes_no_other(nested: str) -> None:
    codec = make_codec(REWRITING["gpt-oss"], "bytes")
    talk = [
        Message("user", "a"),
        Message("assistant", f"Action: {nested} go"),
        Message("user", "b"),
    ]
    clean = [Message("user", "a"), Message("assistant", "Action: go"), Message("user", "b")]
    ids, plain = codec.generation_prompt(talk), codec.generation_prompt(clean)
    for token in REWRITING["gpt-oss"].specials:
        special: Any = codec.tokenizer.convert_tokens_to_ids(token)
        assert ids.count(special) == plain.count(special)


@pytest.mark.parametrize("mark", ["<|channel|>", "<|channel|>final<|message|>", "<|end|>"])
def test_marks_in_the_midst_of_a_reply_are_no_obstacle(mark: str) -> None:
    """A model may say anything: history holds the words, and no mark that a template refuses."""
    codec = make_codec(REWRITING["gpt-oss"], "bytes")
    talk = [Message("user", "a"), Message("assistant", f"Action: {mark} go"), Message("user", "b")]
    said = str(codec.tokenizer.decode(codec.generation_prompt(talk)))
    assert said.count("<|channel|>final<|message|>") == 1
    assert said.rstrip().endswith("<|start|>assistant")
    assert "go<|end|>" in said
