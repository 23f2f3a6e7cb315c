"""Recomputes in the backward pass what is cheap to compute: a weaker gradient checkpointing."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

_ATEN = torch.ops.aten

KEPT = [
    _ATEN.mm.default,
    _ATEN.addmm.default,
    _ATEN.bmm.default,
    _ATEN._scaled_dot_product_flash_attention_for_cpu.default,
    _ATEN._scaled_dot_product_flash_attention.default,
    _ATEN._scaled_dot_product_efficient_attention.default,
    _ATEN._scaled_dot_product_cudnn_attention.default,
]
"""Operations whose results are kept: products of matrices and attention, nearly all of the time."""

_DROPOUT_AT = {
    _ATEN._scaled_dot_product_flash_attention.default: 3,
    _ATEN._scaled_dot_product_efficient_attention.default: 5,
    _ATEN._scaled_dot_product_cudnn_attention.default: 5,
}
"""Place of the rate of dropout among the arguments of attention that draws numbers for it."""


def recompute_cheap(model: Any) -> None:
    """Let each layer keep its products and its attention alone; norms, casts and such come again.

    Args:
        model: A model of transformers itself, not a wrapper of PEFT around it.
    """
    enable = getattr(model, "activation_checkpointing_enable", None)
    if enable is None:  # its name until transformers 5.22
        enable = model.gradient_checkpointing_enable
    enable({"use_reentrant": False, "context_fn": _contexts})


def _contexts() -> Any:
    return create_selective_checkpoint_contexts(_policy)  # type: ignore[no-untyped-call]


def _policy(_: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """Say what is kept: what draws no numbers, or the dropout after it would draw others."""
    place = _DROPOUT_AT.get(operation, len(args))
    rate = kwargs.get("dropout_p", args[place] if place < len(args) else 0.0)
    kept = operation in KEPT and not rate
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
