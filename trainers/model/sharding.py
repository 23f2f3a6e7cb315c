"""Sharded weights (FSDP, DeepSpeed): refuses what cannot work, gathers them for saving."""

from __future__ import annotations

import copy
import os
from typing import Any

import torch
from accelerate.utils import fsdp2_prepare_model
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from eto_gym.trainers.settings.base import SettingsError, TrainSettings


def is_spread(trainer: Any) -> bool:
    """Whether the weights of a Trainer's model are spread over devices."""
    return bool(trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)


def load_whole() -> None:
    """Let models be loaded whole from here on, until the next Trainer is made.

    A Trainer under ZeRO 3 leaves word that models be loaded in pieces, by all processes together.
    Such a model can be neither checked nor hashed, and a process that loads one alone is stuck.
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


def refuse_spread(trainer: Any, method: str) -> None:
    """Refuse to train by a method that plays, where no device holds the whole model.

    Raises:
        SettingsError: The weights are spread over devices.
    """
    if is_spread(trainer):
        raise SettingsError(
            f"{method} plays with the whole model on each device: FSDP and DeepSpeed spread "
            "it; train with plain data parallelism, with lora_r where memory is short"
        )


def check_spread(trainer: Any, settings: TrainSettings, *, scored: bool) -> None:
    """Refuse what does not work where weights are spread over devices.

    Args:
        trainer: A Trainer of transformers.
        settings: How it trains.
        scored: The model is scored during training.

    Raises:
        SettingsError: Something of that is asked for; the message names what works.
    """
    if not is_spread(trainer):
        return
    if settings.optimizer == "muon":
        raise SettingsError(
            "muon needs whole weight matrices on each device: FSDP and DeepSpeed spread them; "
            "use adamw, or train with plain data parallelism"
        )
    if trainer.is_fsdp_enabled and "8bit" in settings.optimizer:
        raise SettingsError(
            f"{settings.optimizer} of bitsandbytes cannot step weights that FSDP spreads, which "
            "spreads the optimizer's states too: use adamw"
        )
    plugin: Any = (
        trainer.accelerator.state.deepspeed_plugin if trainer.is_deepspeed_enabled else None
    )
    zero3 = plugin is not None and plugin.zero_stage == 3
    if zero3 and not plugin.zero3_save_16bit_model:
        raise SettingsError(
            "the trained weights could not be collected in the end: set zero3_save_16bit_model to "
            "true in the configuration of accelerate"
        )
    if trainer.is_fsdp_enabled:
        check_fsdp2(trainer)
    if settings.activation_offload and (trainer.is_fsdp_enabled or zero3):
        raise SettingsError(
            "activation_offload would copy weights too, which FSDP and ZeRO 3 bring together anew "
            "in every pass: use gradient_checkpointing"
        )
    if scored:
        raise SettingsError(
            "scores during training need the whole model on each device: FSDP and DeepSpeed "
            "spread it; score the finished model, or train with LoRA on plain data parallelism"
        )


def check_fsdp2(trainer: Any) -> None:
    """Refuse the first FSDP.

    Raises:
        SettingsError: The configuration of accelerate names that.
    """
    if not trainer.accelerator.is_fsdp2:
        raise SettingsError(
            "this was made for FSDP 2: set fsdp_version to 2 in the configuration of accelerate"
        )


def is_zero3(args: Any) -> bool:
    """Whether DeepSpeed spreads the weights themselves, under these `TrainingArguments`."""
    plugin = args.deepspeed_plugin
    return plugin is not None and plugin.zero_stage == 3


def spread(model: Any, trainer: Any) -> Any:
    """Spread a model that is scored and not trained over devices, by FSDP 2."""
    check_fsdp2(trainer)
    return fsdp2_prepare_model(trainer.accelerator, model)


def scoring_engine(model: Any, accelerator: Any) -> Any:
    """Return DeepSpeed's engine around a model that is scored and not trained.

    Under ZeRO 3 its weights are spread, else each device holds all of them.
    """
    import deepspeed

    plan = copy.deepcopy(accelerator.state.deepspeed_plugin.deepspeed_config)
    for training in ("optimizer", "scheduler"):  # there is nothing that they could step
        plan.pop(training, None)
    zero = plan["zero_optimization"]
    zero.pop("offload_optimizer", None)
    if zero["stage"] != 3:
        zero["stage"] = 0
    engine, *_ = deepspeed.initialize(model=model, config=plan)
    engine.eval()  # it does not return itself, as a module does
    return engine


def keep_precise(accelerator: Any) -> None:
    """Let FSDP 2 round to bf16 what is computed in it, and neither results nor gradients.

    accelerate has it round the outputs of every layer too, log-probabilities among them: sums over
    a conversation are then good to two or three digits, and their differences are what counts.
    """
    if accelerator.is_fsdp2 and accelerator.mixed_precision == "bf16":
        accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=torch.float32
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
