"""A small language model from scratch: tokenizer, chat template and decoder, made in seconds.

It is a real `transformers` model: saved as safetensors, loaded by the Auto classes, trained by any
trainer. Everything is decided by the texts and the seed.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from eto_gym.agents.models.quiet import without_progress_bars
from eto_gym.errors import EtoGymError, require

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

PAD, END = "<|pad|>", "<|end|>"
ROLE_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>")

# Every message is its role, its words and the end-of-turn token, with nothing between them. The
# generation markers let transformers tell the assistant's tokens too.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

SMALLEST_VOCABULARY = 256 + 1 + 1 + len(ROLE_TOKENS)
"""Bytes and special tokens: what every tokenizer from scratch has."""


def train_tokenizer(texts: Iterable[str], *, vocab_size: int = 768) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with the roles as whole tokens and a chat template.

    Byte-level, so that any text survives encoding and decoding. Deterministic in `texts`.

    Args:
        texts: What the model will read and write. Put texts of every kind in: what is missing here
            is spelled in many tokens later.
        vocab_size: Tokens in all; 768 keeps the embedding small beside the layers, and
            observations of a text world near three characters a token.

    Raises:
        EtoGymError: `vocab_size` cannot hold the 256 bytes and the special tokens.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise EtoGymError(
            f"expected vocab_size >= {SMALLEST_VOCABULARY} (256 bytes and the special tokens), "
            f"got {vocab_size}"
        )
    require("tokenizers", feature="a tokenizer from scratch", extra="train")
    require("transformers", feature="a tokenizer from scratch", extra="train")
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    # Words with their space, single digits (numbers name things: "drawer 12" must be copied), and
    # runs of anything else; never across a newline.
    words = Regex(r" ?\p{L}+| ?\p{N}|\n| ?[^\s\p{L}\p{N}]+|\s")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, END, *ROLE_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=list(ROLE_TOKENS),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def build_model(
    tokenizer: PreTrainedTokenizerFast,
    *,
    hidden_size: int = 128,
    layers: int = 4,
    heads: int = 4,
    kv_heads: int = 1,
    mlp_size: int = 384,
    context: int = 2048,
    seed: int = 0,
) -> LlamaForCausalLM:
    """Build a randomly initialised Llama for `tokenizer`, about 0.95 million parameters by default.

    Args:
        tokenizer: Decides the vocabulary and the end-of-turn token.
        hidden_size: Width; must be a multiple of `heads`.
        layers: Decoder layers.
        heads: Attention heads.
        kv_heads: Heads of keys and values. One for all heads: long conversations spend most of
            their time on reading cached keys and values, and a quarter of them is read here.
        mlp_size: Inner width of the feed-forward part; three times the width, as usual with SwiGLU.
        context: Longest conversation in tokens.
        seed: Seed of the weights; the global generator is left as it was.

    Raises:
        EtoGymError: `hidden_size` is no multiple of `heads`, or `heads` none of `kv_heads`.
    """
    if hidden_size % heads or heads % kv_heads:
        raise EtoGymError(
            "expected hidden_size a multiple of heads, and heads a multiple of kv_heads, got "
            f"{hidden_size}, {heads}, {kv_heads}"
        )
    require("torch", feature="a model from scratch", extra="train")
    require("transformers", feature="a model from scratch", extra="train")
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=mlp_size,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.train(False)
    return model


def save_tiny(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: str | Path
) -> Path:
    """Save model (safetensors), tokenizer and chat template into `folder` for the Auto classes."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    with without_progress_bars():
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
    return path
