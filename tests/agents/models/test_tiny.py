from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eto_gym.errors import EtoGymError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

# ruff: noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer

from eto_gym.agents.models.tiny import ROLE_TOKENS, build_model, save_tiny, train_tokenizer

TEXTS = [
    "You go to drawer 12. On it, you see a cup 3.",
    "Thought: look\nAction: go to drawer 1",
] * 3
TOKENIZER = train_tokenizer(TEXTS, vocab_size=400)


@settings(deadline=None)
@given(st.text())
def test_any_text_survives(text: str) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == text


def test_tokenizer_is_deterministic_and_roles_are_whole() -> None:
    again = train_tokenizer(iter(TEXTS), vocab_size=400)
    assert again.get_vocab() == TOKENIZER.get_vocab()
    assert all(len(TOKENIZER.encode(role)) == 1 for role in ROLE_TOKENS)
    assert len(TOKENIZER.encode(" drawer")) == 1
    assert len(TOKENIZER.encode(" 12")) == 2  # numbers are spelled, so that any can be copied
    with pytest.raises(EtoGymError, match="vocab_size"):
        train_tokenizer(TEXTS, vocab_size=200)


def test_model_is_deterministic_and_survives_saving(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    model = build_model(TOKENIZER, layers=2, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    folder = save_tiny(model, TOKENIZER, tmp_path / "tiny")
    assert (folder / "model.safetensors").exists()
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    other = build_model(TOKENIZER, layers=2, seed=5)
    for name, parameter in build_model(TOKENIZER, layers=2, seed=4).named_parameters():
        assert torch.equal(parameter, loaded.get_parameter(name))
        assert parameter.ndim < 2 or not torch.equal(parameter, other.get_parameter(name))
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    assert tokenizer.chat_template == TOKENIZER.chat_template
    text = "You see <|end|> é"
    assert tokenizer.encode(text) == TOKENIZER.encode(text)
    assert loaded.generation_config.eos_token_id == tokenizer.eos_token_id


def test_default_size() -> None:
    model = build_model(train_tokenizer(TEXTS, vocab_size=768))
    assert 0.6e6 < sum(p.numel() for p in model.parameters()) < 1.5e6
    with pytest.raises(EtoGymError, match="multiple"):
        build_model(TOKENIZER, heads=3)
