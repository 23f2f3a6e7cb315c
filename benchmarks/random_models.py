"""Models with random weights: named shapes, made from their configuration alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PAD, END = 0, 1

ARCHITECTURES: dict[str, dict[str, int]] = {
    # To see that something runs.
    "tiny": {"hidden": 32, "layers": 2, "heads": 4, "kv_heads": 2, "mlp": 64, "vocab": 512},
    "6x256": {"hidden": 256, "layers": 6, "heads": 4, "kv_heads": 4, "mlp": 768, "vocab": 16384},
    "112M": {"hidden": 768, "layers": 12, "heads": 12, "kv_heads": 12, "mlp": 2560, "vocab": 16384},
    # The shapes of Qwen2.5.
    "1.5B": {
        "hidden": 1536,
        "layers": 28,
        "heads": 12,
        "kv_heads": 2,
        "mlp": 8960,
        "vocab": 151936,
    },
    "7B": {"hidden": 3584, "layers": 28, "heads": 28, "kv_heads": 4, "mlp": 18944, "vocab": 152064},
}
UNTIED = frozenset({"7B"})
"""Architectures whose output layer has weights of its own."""


def build(folder: Path, architecture: str, seed: int) -> None:
    """Write a Llama with random weights, and a tokenizer with a word for each token."""
    import torch

    wide = ARCHITECTURES[architecture]["hidden"] > 1000
    make(
        architecture,
        seed=seed,
        dtype=torch.bfloat16 if wide else torch.float32,
        device="cuda" if torch.cuda.is_available() else "cpu",
    ).save_pretrained(folder)
    save_tokenizer(folder, architecture)


def make(architecture: str, *, seed: int, dtype: Any, device: str) -> Any:
    """Return a Llama with random weights, made on the device."""
    import torch
    from transformers import LlamaForCausalLM

    before = torch.get_default_dtype()
    torch.manual_seed(seed)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return LlamaForCausalLM(llama_config(architecture))
    finally:
        torch.set_default_dtype(before)


def make_for_training(architecture: str, settings: Any, *, seed: int) -> Any:
    """Return what `load_for_training` would load from a folder of the model, without the folder.

    The weights are drawn where they are trained, and quantized there; a disk would take longer
    than the training that is measured.
    """
    import torch
    from transformers import LlamaForCausalLM

    from eto_gym.trainers.model.models import loading_options

    options = loading_options(settings)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = make(architecture, seed=seed, dtype=options["dtype"], device=device)
    if not settings.qlora:
        return model
    return LlamaForCausalLM.from_pretrained(
        None,
        config=llama_config(architecture),
        state_dict=model.state_dict(),
        device_map={"": device},
        **options,
    )


def llama_config(architecture: str) -> Any:
    """Return the configuration of a named shape."""
    from transformers import LlamaConfig

    shape = ARCHITECTURES[architecture]
    return LlamaConfig(
        vocab_size=shape["vocab"],
        hidden_size=shape["hidden"],
        intermediate_size=shape["mlp"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"],
        max_position_embeddings=8192,
        tie_word_embeddings=architecture not in UNTIED,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=END,
    )


def save_tokenizer(folder: Path, architecture: str) -> None:
    """Write a tokenizer with a word for each token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word(index): index for index in range(ARCHITECTURES[architecture]["vocab"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=word(PAD)))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token=word(PAD), eos_token=word(END)
    ).save_pretrained(folder)


def word(token: int) -> str:
    """Return the word of a token; no other word holds that of a special one."""
    return {PAD: "<pad>", END: "<end>"}.get(token, f"w{token}")


def parameters(architecture: str) -> int:
    """Return how many weights a model of this shape has, norms not counted."""
    shape = ARCHITECTURES[architecture]
    embeddings = shape["vocab"] * shape["hidden"] * (2 if architecture in UNTIED else 1)
    return embeddings + _layers(shape)


def operations(
    architecture: str, tokens: int, *, length: int, trained: float, whole: bool
) -> float:
    """Return the floating-point operations of matrix products that training rows takes.

    Forward and backward, each row by itself, without recomputing and without a reference model.

    Args:
        architecture: A named shape.
        tokens: Tokens of all rows.
        length: Tokens of a row.
        trained: Part of the tokens of which the loss is taken; only these pass the output layer.
        whole: Whether all weights are trained, and not adapters alone.
    """
    shape = ARCHITECTURES[architecture]
    weights = _layers(shape) + int(trained * shape["hidden"] * shape["vocab"])
    # Forward 2 per weight; backward 2 for the states, and 2 for the weights that are trained.
    per_token = (6 if whole else 4) * weights
    # Half of the square of scores is hidden; two products forward, four backward.
    per_token += 6 * shape["layers"] * shape["hidden"] * length
    return float(per_token * tokens)


def _layers(shape: dict[str, int]) -> int:
    """Return the weights of all layers."""
    width, head = shape["hidden"], shape["hidden"] // shape["heads"]
    attention = 2 * width * width + 2 * width * head * shape["kv_heads"]
    return shape["layers"] * (attention + 3 * width * shape["mlp"])
