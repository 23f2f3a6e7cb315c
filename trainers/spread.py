"""Weights that FSDP or DeepSpeed spread over devices: what cannot work, and collecting them."""

from __future__ import annotations

import os
from typing import Any

from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from eto_gym.trainers.options import SettingsError, TrainSettings


def is_spread(trainer: Any) -> bool:
    """Whether the weights of a Trainer's model are spread over devices."""
    return bool(trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)


def load_whole() -> None:
    """Let models be loaded whole from here on, until the next Trainer is made.

    A training under ZeRO 3 leaves word that those after it in the same process be loaded in pieces,
    which can be neither checked nor hashed.
    """
    unset_hf_deepspeed_config()  # type: ignore[no-untyped-call]


def check_precision(*, bf16: bool) -> None:
    """Refuse a configuration of accelerate whose precision is not that of the settings.

    Raises:
        SettingsError: It names another one; transformers would take that.
    """
    named = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    ours = "bf16" if bf16 else "no"
    if named not in ("no", ours):
        raise SettingsError(
            f"the configuration of accelerate sets mixed_precision to {named}, and the training's "
            f"precision is {'bf16' if bf16 else 'fp32'}: set mixed_precision to 'no' there "
            "(`precision` in the settings decides), or let both name bf16"
        )


def check_spread(trainer: Any, settings: TrainSettings, *, scored: bool) -> None:
    """Refuse what needs the whole weights on each device, where they are spread.

    Args:
        trainer: A Trainer of transformers.
        settings: How it trains.
        scored: The model is scored during training.

    Raises:
        SettingsError: Something of that is asked for.
    """
    if not is_spread(trainer):
        return
    if settings.optimizer == "muon":
        raise SettingsError(
            "muon needs whole weight matrices on each device: FSDP and DeepSpeed spread them; "
            "use adamw, or train with plain data parallelism"
        )
    if scored:
        raise SettingsError(
            "scores during training need the whole model on each device: FSDP and DeepSpeed "
            "spread it; score the finished model, or train with LoRA on plain data parallelism"
        )


def whole_weights(trainer: Any) -> dict[str, Any] | None:
    """Collect the weights of a Trainer's model, where they are spread; else return None.

    All processes take part; what others than the first return is not complete.
    """
    if not is_spread(trainer):
        return None
    weights: dict[str, Any] | None = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.is_deepspeed_enabled and trainer.args.bf16:
        from deepspeed.utils import safe_get_full_fp32_param

        # The model holds rounded copies of what is trained, in which small steps are lost.
        for name, parameter in trainer.model.named_parameters():
            if parameter.requires_grad:
                trained = safe_get_full_fp32_param(parameter)
                if weights is not None:
                    weights[name] = trained.cpu()
    return weights
