"""Saves and restores the trainable weights of a model in one file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from eto_gym.files import replacing


def save_weights(model: Any, path: Path, notes: dict[str, str] | None = None) -> None:
    """Write the trainable weights of `model`, and notes about them, atomically."""
    weights = {name: p.detach().cpu().contiguous() for name, p in _trainable(model)}
    with replacing(path) as partial:
        save_file(weights, str(partial), metadata=notes)


def load_weights(model: Any, path: Path) -> dict[str, str]:
    """Put the weights of a file into `model`, and return the notes about them."""
    with safe_open(str(path), framework="pt") as file:
        for name, parameter in _trainable(model):
            parameter.data.copy_(file.get_tensor(name))
        return dict(file.metadata() or {})


def _trainable(model: Any) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)
