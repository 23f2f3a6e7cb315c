"""Variables and dates of chat templates, set once and for all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eto_gym.agents.models.template import (
    DATE_VARIABLE,
    reads_clock,
    run_date,
    settle_template,
    template_of,
)
from eto_gym.conversation import parse_reply
from eto_gym.errors import EtoGymError
from eto_gym.prompt import Message
from eto_gym.reasoning import split_reasoning
from tests.agents.models.chat_templates import LLAMA3_DATED, QWEN3, REWRITING

pytest.importorskip("transformers")

from tests.agents.models.test_chat_templates import TALK, make_codec, make_tokenizer


def rendered(template: str, **options: Any) -> str:
    tokenizer = make_tokenizer(REWRITING["qwen3"], "bytes")
    chat = [{"role": "user", "content": "hi"}]
    return str(
        tokenizer.apply_chat_template(
            chat, chat_template=template, tokenize=False, add_generation_prompt=True, **options
        )
    )


def test_variables_are_set_in_the_template_as_if_they_were_given() -> None:
    for value in (
        *(False, True, 3, 0.5, None, 'a "quoted"\n\\text', ["a", {"b": None}]),
        *("🙂 é \u2028", {"🙂": "ü"}),
    ):
        template = "\n{{ x == y }}{{ x }}\n{% if x %}yes{% endif %}"
        settled = settle_template(template, {"x": value})
        assert rendered(settled, y=value) == rendered(template, x=value, y=value)
        assert settle_template(settled, {"x": value}) == settled  # once is enough
    assert rendered(settle_template(QWEN3, {"enable_thinking": False})) == rendered(
        QWEN3, enable_thinking=False
    )
    wrong: list[tuple[str, Any]] = [("not a name", 1), ("x", object()), ("x", float("nan"))]
    for name, bad in wrong:
        with pytest.raises(EtoGymError):
            settle_template(QWEN3, {name: bad})


def test_a_template_that_reads_the_clock_has_one_date(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = "{{ strftime_now('%d %b %Y') }}|{{ strftime_now(\"%Y-%m-%d\") }}"
    assert reads_clock(clock)
    assert not reads_clock(QWEN3)
    assert rendered(settle_template(clock, {}, "2024-07-26")) == "26 Jul 2024|2024-07-26"
    given = {"date_string": "26 July 2024"}
    assert rendered(settle_template(clock, given)) == "26 Jul 2024|2024-07-26"
    assert rendered(settle_template(clock, {"date_string": "it's dawn"})) == "it's dawn|it's dawn"
    dated = rendered(settle_template(LLAMA3_DATED, {}, "2024-07-26"))
    assert "Today: 26 Jul 2024" in dated
    monkeypatch.setenv(DATE_VARIABLE, "2020-02-02")
    assert run_date() == "2020-02-02"
    assert rendered(settle_template(clock, {})) == "02 Feb 2020|2020-02-02"
    monkeypatch.setenv(DATE_VARIABLE, "soon")
    with pytest.raises(EtoGymError, match="YYYY-MM-DD"):
        run_date()


def test_the_template_of_a_folder_is_found(tmp_path: Path) -> None:
    assert template_of(tmp_path) == ""
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ a }}"}))
    assert template_of(tmp_path) == "{{ a }}"
    (tmp_path / "chat_template.jinja").write_text("{{ b }}")
    assert template_of(tmp_path) == "{{ b }}"


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece"])
def test_channels_keep_thoughts_apart_from_words(kind: str) -> None:
    """gpt-oss: what is sampled are channels; history holds words, closed by another mark."""
    codec = make_codec(REWRITING["gpt-oss"], kind)
    assert codec.end_of_turn == "<|return|>"
    thought = "<|channel|>analysis<|message|>Action: look?<|end|><|start|>assistant"
    said = f"{thought}<|channel|>final<|message|>Action: go"
    ids, mask = codec.encode((TALK[0], Message("assistant", said, train=True)))
    sampled = [i for i, kept in zip(ids, mask, strict=True) if kept]
    assert codec.tokenizer.decode(sampled) == said + "<|return|>"
    assert sampled == codec.tokenizer.encode(said + "<|return|>", add_special_tokens=False)
    assert codec.decode_reply(sampled) == said
    assert split_reasoning(said).spoken == "Action: go"
    reply = parse_reply(said)
    assert reply is not None
    assert reply.action == "go"
    # Words alone are said on their channel.
    ids, mask = codec.encode((TALK[0], Message("assistant", "Action: go", train=True)))
    sampled = [i for i, kept in zip(ids, mask, strict=True) if kept]
    assert codec.tokenizer.decode(sampled) == "<|channel|>final<|message|>Action: go<|return|>"
    assert codec.decode_reply(sampled) == "Action: go"
    # The next prompt holds the words, whichever way they were said.
    prompts = [
        codec.generation_prompt((TALK[0], Message("assistant", words), TALK[2]))
        for words in (said, "Action: go")
    ]
    assert prompts[0] == prompts[1]
    text = str(codec.tokenizer.decode(prompts[0]))
    assert "<|channel|>final<|message|>Action: go<|end|>" in text
    # One that was cut within its thoughts has no action.
    cut = codec.decode_reply(codec._tokens.encode("<|channel|>analysis<|message|>Action: look"))
    assert split_reasoning(cut).cut
    assert parse_reply(cut) is None
