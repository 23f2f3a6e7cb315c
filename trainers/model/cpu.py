"""How training on a CPU minds its memory."""

from __future__ import annotations

import os
from typing import Any

import torch

from eto_gym.agents.memory import memory_limit, resident_bytes, return_freed_memory


def alone_on_cpu() -> bool:
    """Whether one process trains, and on a CPU: no weight is moved, or spread over processes."""
    return os.environ.get("WORLD_SIZE", "1") == "1" and not torch.accelerator.is_available()


LARGE = 2 << 30
LARGE_SHARE = 1 / 3
"""Resident bytes, and share of what the process may hold, from which it gives freed memory back
within a pass too. A pass takes an eighth longer for that."""


def tidy_in_passing(model: Any) -> None:
    """Let each pass of a large process give freed memory back before its largest tensors.

    These are the logits, after the layers, and on the way back the gradient of the embedding.
    What the layers have freed by then lies in pieces that are too small for either.

    Args:
        model: A model of transformers itself, not a wrapper of PEFT around it.
    """
    model.base_model.register_forward_hook(_after_layers)
    model.get_input_embeddings().register_forward_hook(_before_layers)


def _after_layers(module: Any, inputs: Any, output: Any) -> None:
    if torch.is_grad_enabled():
        _return_where_large()


def _before_layers(module: Any, inputs: Any, output: Any) -> None:
    if output.requires_grad:
        output.register_hook(lambda gradient: _return_where_large())


def _return_where_large() -> None:
    if resident_bytes() > max(LARGE, LARGE_SHARE * memory_limit()):
        return_freed_memory()
