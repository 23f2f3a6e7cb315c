"""Whom the policy is compared with: itself without what it learns, or a second model beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from eto_gym.trainers.model.models import bare_model, load_for_training
from eto_gym.trainers.model.sharding import scoring_engine, spread
from eto_gym.trainers.settings.base import TrainSettings

ADAPTER = "ref"
"""Name of the frozen copy of an adapter that training goes on with."""


def copy_adapter(model: Any) -> None:
    """Put a copy of a model's adapter beside it, as the reference."""
    model.add_adapter(ADAPTER, model.peft_config["default"])
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".default." in name:
                model.get_parameter(name.replace(".default.", f".{ADAPTER}.")).copy_(weight)


def settle_adapter(model: Any, *, scored: bool) -> None:
    """Remove the copy where the reference was scored already; else keep it from being trained."""
    if scored:
        model.delete_adapter(ADAPTER)
        return
    for name, weight in model.named_parameters():
        if f".{ADAPTER}." in name:
            weight.requires_grad_(False)


@contextlib.contextmanager
def reference_adapters(model: Any) -> Iterator[None]:
    """Let a model with adapters have those of the reference for a while: the copy, or none."""
    if ADAPTER not in model.peft_config:
        with model.disable_adapter():
            yield
        return
    active = model.active_adapter
    model.set_adapter(ADAPTER)
    try:
        yield
    finally:
        model.set_adapter(active)


def second_model(trainer: Any, source: str | Path, settings: TrainSettings) -> Any:
    """Load the model that training starts from once more, spread over devices as the policy is.

    Args:
        trainer: The Trainer of the policy.
        source: Where the policy was loaded from.
        settings: How it was loaded.
    """
    model = load_for_training(source, settings)
    # As the policy computes, token trees included.
    model.set_attn_implementation(bare_model(trainer.model).config._attn_implementation)
    if trainer.is_deepspeed_enabled:
        return scoring_engine(model, trainer.accelerator)
    if trainer.is_fsdp_enabled:
        return spread(model, trainer).eval()
    return trainer.accelerator.prepare_model(model, evaluation_mode=True).eval()


@contextlib.contextmanager
def without_checkpointing(model: Any, options: Any) -> Iterator[None]:
    """Switch gradient checkpointing off for a while: nothing is computed again without gradients.

    Args:
        model: The model, or PEFT's wrapper around it.
        options: How to switch it on again.
    """
    # Until transformers 5.23 it had the other name alone, which goes in 6.
    kind = "activation" if hasattr(model, "is_activation_checkpointing") else "gradient"
    on = getattr(model, f"is_{kind}_checkpointing")
    if on:
        getattr(model, f"{kind}_checkpointing_disable")()
    try:
        yield
    finally:
        if on:
            getattr(model, f"{kind}_checkpointing_enable")(options)
