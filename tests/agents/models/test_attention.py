"""Heads that share keys: never copied where a model plays, and left alone where one trains."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from eto_gym.agents.policy import Conversation
from eto_gym.prompt import Message

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

# ruff: noqa: E402
from eto_gym.agents.models.attention import FORCE_GQA, keys_left_shared
from eto_gym.agents.models.local import LocalPolicy
from eto_gym.agents.models.tiny import save_tiny
from tests.agents.models.small_models import TOKENIZER, hello, make_model


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_heads_that_share_keys_are_never_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    from transformers.integrations import sdpa_attention

    if FORCE_GQA not in Path(sdpa_attention.__file__).read_text("utf-8"):
        pytest.skip("this transformers copies them while prompts are read")
    folder = save_tiny(make_model("qwen3"), TOKENIZER, tmp_path / "model")
    loaded = LocalPolicy.from_pretrained(str(folder), device="cpu", dtype=dtype, max_new_tokens=4)
    attend = torch.nn.functional.scaled_dot_product_attention
    seen = []

    def watched(query: Any, key: Any, *args: Any, **options: Any) -> Any:
        seen.append((query.shape[1:3], key.shape[1], options.get("enable_gqa", False)))
        return attend(query, key, *args, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    loaded.act([Conversation("a", [Message("user", "The rules."), *hello(0)])])
    assert {keys for _, keys, _ in seen} == {2}
    assert ((2, 2), 2, False) in seen, "one query of each of four heads, as two of each key's"
    assert all(gqa for (heads, _), _, gqa in seen if heads == 4)


def test_playing_leaves_the_process_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What trains in the process computes the same, whether or not a model has played in it."""
    monkeypatch.delenv(FORCE_GQA, raising=False)
    model = make_model("qwen3")
    row = torch.arange(12)[None]
    mask = torch.ones(1, 1, 12, 12, dtype=torch.bool).tril()

    def gradient() -> Any:
        model.zero_grad()
        model(input_ids=row, attention_mask=mask, labels=row).loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    before, settings = gradient(), dict(os.environ)
    folder = save_tiny(model, TOKENIZER, tmp_path / "model")
    loaded = LocalPolicy.from_pretrained(str(folder), device="cpu", max_new_tokens=4)
    loaded.act([Conversation("a", [Message("user", "The rules."), *hello(0)])])
    assert dict(os.environ) == settings
    assert torch.equal(gradient(), before)


@pytest.mark.parametrize("value", [None, "0"])
def test_players_in_two_threads_do_not_end_each_others_setting(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv(FORCE_GQA, raising=False)
    if value is not None:
        monkeypatch.setenv(FORCE_GQA, value)
    meanwhile = "1" if value is None else value
    with keys_left_shared:
        with keys_left_shared:
            assert os.environ[FORCE_GQA] == meanwhile
        assert os.environ[FORCE_GQA] == meanwhile
    assert os.environ.get(FORCE_GQA) == value
