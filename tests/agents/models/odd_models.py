"""Small models with what makes models of others hard to use."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def tokenizer_of(texts: Iterable[str] = ("go north and look",), *, added: int = 0) -> Any:
    """Return a small chat tokenizer, with tokens that no embedding was made for."""
    from eto_gym.agents.models.tiny import train_tokenizer

    tokenizer = train_tokenizer(texts, vocab_size=280)
    tokenizer.add_tokens([f"<|extra_{n}|>" for n in range(added)])
    return tokenizer


def llama(tokenizer: Any, **changes: Any) -> Any:
    """Return a Llama whose embedding has as many rows as the tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    config = LlamaConfig(
        **{"max_position_embeddings": 4096, **sizes, **heads, **changes},
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def save(model: Any, tokenizer: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def small_embedding(folder: Path) -> Path:
    """A pad or chat token was added to the tokenizer, and the embedding was not resized."""
    tokenizer = tokenizer_of()
    model = llama(tokenizer)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<|new_end|>"], "pad_token": "<|new_pad|>"}
    )
    tokenizer.chat_template = tokenizer.chat_template.replace("<|end|>", "<|new_end|>")
    return save(model, tokenizer, folder)


def few_positions(folder: Path) -> Path:
    """A GPT-2 with a table of 64 positions."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = tokenizer_of()
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=64,
        n_embd=16,
        n_layer=2,
        n_head=2,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return save(GPT2LMHeadModel(config), tokenizer, folder)


def resized_adapter(folder: Path) -> Path:
    """An adapter that was saved with the embeddings of a base that had been resized for it."""
    import peft
    from transformers import AutoModelForCausalLM

    tokenizer = tokenizer_of()
    base = save(llama(tokenizer, tie_word_embeddings=False), tokenizer, folder / "base")
    model = AutoModelForCausalLM.from_pretrained(base)
    tokenizer.add_tokens(["<|extra|>", "<|more|>"])
    model.resize_token_embeddings(len(tokenizer))
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(model, config)
    adapted.save_pretrained(str(folder / "adapter"), save_embedding_layers=True)
    tokenizer.save_pretrained(folder / "adapter")
    return folder / "adapter"


def of_family(family: str, folder: Path) -> Path:
    """A random model of a family whose configuration names no longest conversation."""
    import transformers as hf

    tokenizer = tokenizer_of()
    size, ends = len(tokenizer), {"eos_token_id": tokenizer.eos_token_id}
    make: dict[str, Callable[[], Any]] = {
        "bloom": lambda: hf.BloomForCausalLM(
            hf.BloomConfig(vocab_size=size, hidden_size=16, n_layer=2, n_head=2, **ends)
        ),
        "mpt": lambda: hf.MptForCausalLM(
            hf.MptConfig(vocab_size=size, d_model=16, n_layers=2, n_heads=2, **ends)
        ),
        "mamba": lambda: hf.MambaForCausalLM(
            hf.MambaConfig(vocab_size=size, hidden_size=16, num_hidden_layers=2, **ends)
        ),
    }
    return save(make[family](), tokenizer, folder)
