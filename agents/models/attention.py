"""Attention of few queries, with the heads that share keys packed into one."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

FORCE_GQA = "TRANSFORMERS_SDPA_FORCE_GQA"
"""Environment variable by which transformers leaves heads that share keys to torch's attention."""

_NAME = "packed_sdpa"


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as `sdpa_attention_forward` does, reading each key once for all heads that share it.

    That function copies the keys for every head where there is a mask and more than one query, or
    leaves the heads to torch, whose kernel for 16 bits on a CPU then takes two to four times as
    long.

    Args:
        module: The attention layer.
        query: (B, heads, queries, width).
        key: (B, key heads, columns, width).
        value: As `key`.
        attention_mask: (B, 1, queries, columns), True where a query may look.
        scaling: Factor of the products; None: by the width.
        options: What else transformers hands on.

    Returns:
        (B, queries, heads, width), and no weights.
    """
    groups = getattr(module, "num_key_value_groups", 1)
    plain = attention_mask is not None and options.get("position_bias") is None
    if groups == 1 or not plain or query.shape[1] != groups * key.shape[1]:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
    batch, heads, queries, width = query.shape
    # (B, key heads * groups, Q, D) -> (B, key heads, groups * Q, D)
    packed = query.reshape(batch, heads // groups, groups * queries, width)
    assert attention_mask is not None
    # (B, 1, Q, columns) -> (B, 1, groups * Q, columns)
    if torch.compiler.is_compiling():
        mask = attention_mask.repeat(1, 1, groups, 1)
    else:
        mask = _MASKS.get(attention_mask, groups, query.dtype)
    out = torch.nn.functional.scaled_dot_product_attention(
        packed, key, value, attn_mask=mask, scale=scaling
    )
    out = out.reshape(batch, heads, queries, value.shape[-1])
    return out.transpose(1, 2).contiguous(), None


class _Masks:
    """The last mask as packed heads want it: all layers of a pass are given the same one."""

    def __init__(self) -> None:
        self._known: Any = lambda: None
        self._made: Any = None
        self._groups = 0

    def get(self, mask: torch.Tensor, groups: int, dtype: torch.dtype) -> torch.Tensor:
        """Return what is added to the products: 0 where `mask` is True, else minus infinity.

        Args:
            mask: (B, 1, queries, columns), which nobody writes to later.
            groups: Heads that share keys.
            dtype: Of the products.
        """
        if self._known() is not mask or self._groups != groups or self._made.dtype != dtype:
            added = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
            added.masked_fill_(~mask, float("-inf"))
            self._made = added.repeat(1, 1, groups, 1)
            self._known, self._groups = weakref.ref(mask), groups
        made: torch.Tensor = self._made
        return made


_MASKS = _Masks()


@contextlib.contextmanager
def packed_heads(model: Any) -> Iterator[None]:
    """Let a model's layers use `packed_attention` meanwhile.

    Masks have to be given in four axes, which transformers hands on as they are.
    """
    config = model.config.get_text_config(decoder=True)
    before = config._attn_implementation
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before


class _KeysLeftShared:
    """Keeps transformers from copying keys and values for every head that shares them, meanwhile.

    It does so where there is a mask, and on a CPU that copy costs more than the attention itself,
    which needs none. What is trained in the same process is left as it is: a model would otherwise
    learn other last digits where one has played before. A value that is set already is kept.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._ours = False

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._ours = FORCE_GQA not in os.environ
                os.environ.setdefault(FORCE_GQA, "1")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._ours:
                os.environ.pop(FORCE_GQA, None)


keys_left_shared = _KeysLeftShared()

AttentionInterface.register(_NAME, packed_attention)
