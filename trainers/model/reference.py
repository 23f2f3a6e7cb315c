"""Caches the scores of the DPO reference model on disk, keyed by content."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from eto_gym.downloads import data_home
from eto_gym.files import expanded, replacing
from eto_gym.trainers.data.encoding import TokenPair, fingerprint

logger = logging.getLogger(__name__)

VERSION = 1
"""Raised when scores are computed in a way that gives other numbers."""

_NAMELESS = ("_name_or_path", "transformers_version", "pad_token_id", "use_cache")
"""Entries of a model's configuration that do not change its scores."""


def reference_file(setting: str, workspace: Path, key: str) -> Path:
    """Return where the scores with this key are kept, as `DPOSettings.reference_cache` says."""
    if setting == "none":
        return workspace / "reference.safetensors"
    folder = data_home() / "reference" if setting == "auto" else expanded(setting)
    return folder / f"{key}.safetensors"


def reference_key(model: Any, rows: Sequence[TokenPair], precision: str) -> str:
    """Return a hash of all that decides the scores: the weights in memory, and the pairs.

    Adapters that are new, and switched off for the reference, are left out; so the scores of the
    base are found again whatever the adapters, and whatever else is set for training.
    """
    digest = hashlib.sha256(f"{VERSION}:{precision}:{fingerprint(rows)}".encode())
    config = model.config.to_diff_dict()
    kept = {name: value for name, value in config.items() if name not in _NAMELESS}
    digest.update(json.dumps(kept, sort_keys=True, default=str).encode())
    skipped = _new_adapters(model)
    for name, tensor in sorted(model.state_dict().items()):
        if name not in skipped and isinstance(tensor, torch.Tensor):
            digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:".encode())
            raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(raw.numpy().data)
    return digest.hexdigest()


def load_scores(path: Path, count: int) -> torch.Tensor | None:
    """Return the scores of `count` sides, or None where there are none that can be used."""
    try:
        scores = load_file(str(path))["logps"]
    except FileNotFoundError:
        return None
    except (SafetensorError, KeyError, OSError) as err:
        logger.warning("%s cannot be read and is made again: %s", path, err)
        return None
    return scores if scores.shape == (count,) else None


def save_scores(path: Path, scores: torch.Tensor) -> None:
    """Write the scores of all sides, in order."""
    with replacing(path) as partial:
        save_file({"logps": scores}, str(partial))


def _new_adapters(model: Any) -> set[str]:
    """Return the names of the weights of adapters that are not part of the reference."""
    adapters = getattr(model, "peft_config", None)
    if adapters is None or "ref" in adapters:
        return set()
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}
