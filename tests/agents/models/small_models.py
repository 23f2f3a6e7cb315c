"""Small random models of many architectures, and what plays conversations with them."""

from __future__ import annotations

from typing import Any

import pytest

from eto_gym.agents.policy import Conversation
from eto_gym.prompt import Message

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

# ruff: noqa: E402
from eto_gym.agents.models.codec import ChatCodec
from eto_gym.agents.models.local import LocalPolicy
from eto_gym.agents.models.tiny import build_model, train_tokenizer

TEXTS = ["You go to drawer 12. On it, you see a cup 3.", "Thought: look\nAction: go to drawer 1"]
TOKENIZER = train_tokenizer(TEXTS, vocab_size=300)
CODEC = ChatCodec(TOKENIZER)
# Several tokens end a reply here, so that the rows of a batch finish at different steps.
ENDS = [CODEC.end_of_turn_id, *range(40, 70)]
SIZES: dict[str, Any] = {
    "vocab_size": len(TOKENIZER),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 512,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": CODEC.end_of_turn_id,
    "tie_word_embeddings": False,
}


CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-eager": ("LlamaConfig", {**SIZES, "attn_implementation": "eager"}),
    "mistral-sliding": ("MistralConfig", {**SIZES, "num_key_value_heads": 2, "sliding_window": 16}),
    "qwen3": ("Qwen3Config", {**SIZES, "num_key_value_heads": 2}),
    "gemma3-hybrid": (
        "Gemma3TextConfig",
        {
            **SIZES,
            "num_key_value_heads": 1,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "llama4-chunked": (
        "Llama4TextConfig",
        {
            **SIZES,
            "num_key_value_heads": 2,
            "intermediate_size_mlp": 64,
            "attention_chunk_size": 16,
            "num_local_experts": 2,
            "layer_types": ["chunked_attention", "full_attention"],
            "no_rope_layers": [1, 0],
        },
    ),
    "falcon-alibi": (
        "FalconConfig",
        {
            "vocab_size": len(TOKENIZER),
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "alibi": True,
            "multi_query": False,
            "max_position_embeddings": 512,
        },
    ),
    "gpt2": (
        "GPT2Config",
        {
            "vocab_size": len(TOKENIZER),
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 512,
            "eos_token_id": CODEC.end_of_turn_id,
        },
    ),
    "mamba": (
        "MambaConfig",
        {
            "vocab_size": len(TOKENIZER),
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "state_size": 4,
        },
    ),
    "qwen3-next": (
        "Qwen3NextConfig",
        {
            **SIZES,
            "num_key_value_heads": 2,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
            "layer_types": ["linear_attention", "full_attention"],
        },
    ),
    "falcon-h1": (
        "FalconH1Config",
        {
            **SIZES,
            "num_key_value_heads": 2,
            "mamba_d_ssm": 32,
            "mamba_n_heads": 4,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
            "mamba_n_groups": 1,
            "mamba_chunk_size": 16,
        },
    ),
}
"""Kind -> class of its settings in transformers, and the settings."""

KINDS = (
    "llama", "llama-eager", "mistral-sliding", "qwen3", "gemma3-hybrid", "gpt2", "llama4-chunked",
    "falcon-alibi",
)  # fmt: skip
"""What `LocalPolicy` plays; the others keep states that are no keys and values."""


def make_model(kind: str) -> Any:
    if kind == "llama":
        return spread(build_model(TOKENIZER, hidden_size=32, layers=2, mlp_size=64, context=512))
    config, options = CONFIGS[kind]
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, config)(**options))
    return spread(model)


def spread(model: Any) -> Any:
    """Enlarge random weights, so that what is said depends on all that was read."""
    torch.manual_seed(2)
    scale = 0.1 if model.config.model_type.startswith("gemma") else 0.5  # Gemma enlarges by itself
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, scale if "embed" in name else 0.3)
    model.generation_config.eos_token_id = ENDS
    model.generation_config.pad_token_id = 0
    return model.eval()


MODEL = make_model("llama")


def policy(model: Any = MODEL, **options: Any) -> LocalPolicy:
    return LocalPolicy(model, CODEC, **{"max_new_tokens": 12, **options})


def observation(episode: int, turn: int) -> Message:
    return Message("user", f"{turn}: you see {'a cup, ' * (1 + (episode * 3 + turn) % 5)}nothing")


def play(
    acting: LocalPolicy, episodes: list[int], *, turns: int = 4, together: int = 100
) -> dict[int, list[Message]]:
    """Play some turns of episodes that start at different times, `together` at once at most."""
    talks = {i: [Message("user", "The rules of this house. " * 3), *hello(i)] for i in episodes}
    left = {i: turns + i % 3 for i in episodes}
    while left:
        ready = sorted(left)[:together]
        replies = acting.act([Conversation(str(i), talks[i], seed=i) for i in ready])
        for i, reply in zip(ready, replies, strict=True):
            assert reply.error is None
            talks[i].append(Message("assistant", reply.text, train=True))
            left[i] -= 1
            if left[i]:
                talks[i].append(observation(i, left[i]))
            else:
                del left[i]
                acting.release(str(i))
    return talks


def hello(episode: int) -> list[Message]:
    return [Message("assistant", "OK"), observation(episode, 0)]


def generate(model: Any, messages: list[Message]) -> str:
    return CODEC.decode_reply(generate_ids(model, messages))


def generate_ids(model: Any, messages: list[Message]) -> list[int]:
    """Generate by transformers alone, from the whole conversation encoded anew."""
    ids = torch.tensor([CODEC.generation_prompt(messages)], device=model.device)
    with torch.inference_mode():
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False
        )
    said: list[int] = out[0, ids.shape[1] :].tolist()
    return said[:-1] if said[-1] in ENDS else said
