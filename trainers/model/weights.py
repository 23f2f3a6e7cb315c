"""Saves and restores the trainable weights of a model in one file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from eto_gym.errors import DataError
from eto_gym.files import replacing


def save_weights(model: Any, path: Path, notes: dict[str, str] | None = None) -> None:
    """Write the trainable weights of `model`, and notes about them, atomically."""
    weights = {name: p.detach().cpu().contiguous() for name, p in _trainable(model)}
    with replacing(path) as partial:
        save_file(weights, str(partial), metadata=notes)


def load_weights(model: Any, path: Path) -> dict[str, str]:
    """Put the weights of a file into `model`, and return the notes about them.

    Raises:
        DataError: The file is not there, is damaged, or holds other weights.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            for name, parameter in _trainable(model):
                parameter.data.copy_(file.get_tensor(name))
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as err:
        raise DataError(f"{path} cannot be read ({err}): train again from the start") from err


def readable(path: Path) -> bool:
    """Whether a file of weights is there and whole, as far as its head and its size tell."""
    try:
        with safe_open(str(path), framework="pt"):
            return True
    except (SafetensorError, OSError):
        return False


def _trainable(model: Any) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)
