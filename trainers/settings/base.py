"""Settings that every training method shares, with the help text beside each field."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

from eto_gym.errors import EtoGymError, check_choice


class SettingsError(EtoGymError, ValueError):
    """A setting has a value that cannot work, or contradicts another setting."""


_LEAST = {
    "batch_size": 1,
    "micro_batch_size": 1,
    "max_length": 1,
    "log_every": 1,
    "max_steps": 0,
    "train_tokens": 0,
    "lora_r": 0,
    "lora_alpha": 0,
    "save_every": 0,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "muon_learning_rate": 0,
    "seed": 0,
}


def option(
    default: Any,
    help: str,
    *,
    paper: str | None = None,
    choices: Sequence[str] | None = None,
    decides: bool = True,
    added: bool = False,
) -> Any:
    """Declare one field of a settings dataclass.

    Args:
        default: The default value.
        help: What the value means, its unit, and why the default is what it is.
        paper: The value in the ETO paper, where the paper names one.
        choices: The allowed strings, where only some are allowed.
        decides: Whether the value has an effect on the result; a run can be resumed with another
            value where it has none.
        added: Whether there are finished runs from before there was this setting. At its default
            it is then left out of what names a stage, so that those runs are recognised.
    """
    metadata = {"help": help, "paper": paper, "choices": choices, "decides": decides}
    return field(default=default, metadata={**metadata, "added": added})


def check_values(settings: Any, least: Mapping[str, float] | None = None) -> None:
    """Refuse strings that are none of their choices, and numbers that cannot be counted with.

    Args:
        settings: Settings of any class.
        least: Name of a setting -> its smallest value; names that the class lacks are left out.

    Raises:
        SettingsError: A number is not finite, or too small.
        UnknownNameError: A named choice does not exist.
    """
    for item in fields(settings):
        value = getattr(settings, item.name)
        if choices := item.metadata.get("choices"):
            check_choice(item.name, value, choices)
        if isinstance(value, float) and not math.isfinite(value):
            raise SettingsError(f"expected {item.name} to be a finite number, got {value}")
    for name, smallest in (least or {}).items():
        value = getattr(settings, name, smallest)
        if value < smallest:
            raise SettingsError(f"expected {name} >= {smallest}, got {value}")


def deciding(settings: Any) -> dict[str, Any]:
    """Return the settings that have an effect on the result.

    A setting that came later is left out where it says nothing or has its default, so that runs
    made before it stay what they are.
    """
    return {
        item.name: getattr(settings, item.name)
        for item in fields(settings)
        if item.metadata.get("decides", True)
        and (getattr(settings, item.name) or not item.metadata.get("later"))
        and not (item.metadata.get("added") and getattr(settings, item.name) == item.default)
    }


def known_before(settings: Any) -> dict[str, Any]:
    """Return all settings but those that came later and say nothing; see `deciding`."""
    return {
        item.name: getattr(settings, item.name)
        for item in fields(settings)
        if (getattr(settings, item.name) or not item.metadata.get("later"))
        and not (item.metadata.get("added") and getattr(settings, item.name) == item.default)
    }


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """What SFT and DPO have in common; the defaults suit a pretrained model.

    Raises:
        SettingsError: A value cannot work, or two values contradict each other.
        UnknownNameError: A named choice does not exist.
    """

    learning_rate: float = option(1e-5, "peak learning rate of AdamW", paper="SFT 1e-5, DPO 1e-6")
    epochs: float = option(3.0, "passes over the data", paper="3")
    max_steps: int = option(0, "stop after this many optimizer steps; 0: run all epochs")
    train_tokens: int = option(
        0,
        "train on about this many tokens, prompts included, however many passes that makes, in "
        "place of epochs and max_steps; 0: as these say",
        added=True,
    )
    batch_size: int = option(
        64, "examples per optimizer step, over all devices", paper="SFT 64, DPO 32"
    )
    micro_batch_size: int = option(
        8,
        "examples per forward pass on one device; has no effect on the result, only on memory and "
        "speed. The number of passes per step follows from it",
    )
    max_length: int = option(4096, "longest conversation in tokens, prompt included", paper="4096")
    truncation: str = option(
        "refuse",
        "what happens to a conversation over max_length: 'refuse' stops with an error that counts "
        "them; 'cut' removes whole turns from its end until it fits, and counts that",
        choices=("refuse", "cut"),
    )
    optimizer: str = option(
        "adamw",
        "'adamw' for pretrained models; 'muon' (Muon for weight matrices, AdamW for the rest) "
        "learns several times faster from scratch; 'adamw8bit' and 'paged_adamw8bit' need "
        "bitsandbytes",
        choices=("adamw", "muon", "adamw8bit", "paged_adamw8bit"),
    )
    muon_learning_rate: float = option(0.02, "peak learning rate of Muon's matrices")
    weight_decay: float = option(0.0, "decoupled weight decay of matrices", paper="0")
    adam_beta2: float = option(0.999, "decay of AdamW's second moment; 0.95 suits short runs")
    max_grad_norm: float = option(1.0, "gradients are scaled down to this norm; 0: never")
    grad_norm_limit: float = option(
        1000.0,
        "stop with an error at a gradient norm this many times above its median so far, and above "
        "this value: that is divergence, which clipping only hides; 0: never",
    )
    schedule: str = option(
        "cosine",
        "learning rate after the warm-up",
        paper="SFT cosine, DPO constant",
        choices=("cosine", "linear", "constant"),
    )
    warmup_ratio: float = option(
        0.03, "part of all steps over which the rate rises from 0", paper="SFT 0.03, DPO 0.1"
    )
    seed: int = option(0, "seed of the order of the data, of dropout and of new adapters")
    precision: str = option(
        "auto",
        "'auto': bf16 where a GPU supports it, else fp32; 'hardware': also where the CPU is faster "
        "by it (AMX, and AVX-512 BF16 but Intel's); elsewhere 'bf16' is slow there",
        choices=("auto", "hardware", "fp32", "bf16"),
    )
    gradient_checkpointing: bool = option(
        False, "recompute activations in the backward pass: less memory, about 30% more time"
    )
    activation_offload: bool = option(
        False,
        "keep activations in the host's memory until the backward pass needs them: less memory on "
        "a GPU, slower; no effect on a CPU",
    )
    lora_r: int = option(0, "rank of LoRA adapters on every linear layer; 0: train all weights")
    lora_alpha: float = option(0.0, "scale of the adapters; 0: twice the rank")
    lora_dropout: float = option(
        0.0, "dropout inside the adapters; preference training and PPO train without any"
    )
    qlora: bool = option(
        False, "keep the base in 4 bits (NF4, double quantization); needs lora_r and bitsandbytes"
    )
    merge_adapter: bool = option(
        False, "write the whole model with the adapter merged in, not the adapter alone"
    )
    save_every: int = option(
        0, "optimizer steps between checkpoints that a killed run resumes from; 0: each epoch"
    )
    log_every: int = option(1, "optimizer steps between two entries of the metrics")
    chat_template: str = option(
        "",
        "file with a chat template (Jinja) in place of the model's own, which it then is; for "
        "models whose template rewrites earlier turns",
    )
    template_kwargs: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "help": "variables of the chat template, such as {'enable_thinking': false} or a "
            "date_string; they are set in the template that is saved with the model",
            "later": True,
        },
    )
    mask_thoughts: bool = field(
        default=False,
        metadata={
            "help": "train on what replies say, and not on their reasoning blocks, which are read "
            "all the same; of earlier replies they are not read with a history that ends in "
            "'-thoughts'",
            "later": True,
        },
    )
    report_to: str = option(
        "",
        "where transformers' callbacks report to: 'wandb', 'tensorboard', 'mlflow', ..., several "
        "with commas; empty: nowhere",
        decides=False,
    )
    push_to_hub: str = option(
        "",
        "repository on the Hugging Face hub that the finished model is uploaded to (with the token "
        "of `hf auth login`); empty: nothing leaves this machine",
        decides=False,
    )
    hub_private: bool = option(True, "make that repository private if it is new", decides=False)

    def __post_init__(self) -> None:
        """Reject values that cannot work."""
        check_values(self, _LEAST)
        if not 0 <= self.lora_dropout < 1:
            raise SettingsError(f"expected lora_dropout within 0..1, got {self.lora_dropout}")
        if self.epochs <= 0 and self.max_steps <= 0:
            raise SettingsError("expected epochs > 0 or max_steps > 0")
        if self.grad_norm_limit < 0:
            raise SettingsError(f"expected grad_norm_limit >= 0, got {self.grad_norm_limit}")
        if self.learning_rate <= 0:
            raise SettingsError(f"expected learning_rate > 0, got {self.learning_rate}")
        if not 0 <= self.warmup_ratio <= 1:
            raise SettingsError(f"expected warmup_ratio within 0..1, got {self.warmup_ratio}")
        if self.qlora and not self.lora_r:
            raise SettingsError("qlora trains adapters on a frozen 4-bit base: set lora_r too")
        if self.lora_r and self.optimizer == "muon":
            raise SettingsError("muon is for whole weight matrices, not for adapters: use adamw")
        if self.batch_size % min(self.batch_size, self.micro_batch_size):
            raise SettingsError(
                f"expected batch_size ({self.batch_size}) to be a multiple of micro_batch_size "
                f"({self.micro_batch_size})"
            )

    def for_data(self, rows: int, tokens: int) -> Self:
        """Return these settings with the optimizer steps that `train_tokens` makes of some data.

        Args:
            rows: Rows of a pass.
            tokens: Tokens of a pass.
        """
        if not self.train_tokens:
            return self
        a_step = tokens / max(1.0, rows / self.batch_size)
        return replace(self, max_steps=max(1, round(self.train_tokens / a_step)))


@dataclass(frozen=True, kw_only=True)
class SharingSettings(TrainSettings):
    """What methods have in common that can compute the common beginning of their rows once."""

    share_prefix: str = option(
        "auto",
        "pack the rows of a micro-batch (the sides of its pairs) without padding, and compute what "
        "they share at their beginnings once: same result, less memory and time; 'auto': where "
        "that saves enough tokens, and the model's attention allows it, else a warning says why "
        "not; 'on': always, with an error instead of the warning; 'off': never",
        choices=("auto", "on", "off"),
    )
