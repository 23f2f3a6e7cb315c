"""Models on disk: loading with adapters or in four bits, and writing a folder in one move."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eto_gym.agents.models.adapters import CONFIG_FILE, base_of, is_adapter
from eto_gym.agents.models.loading import (
    embedding_rows,
    from_pretrained,
    quantization_config,
    read_template,
    with_adapter,
)
from eto_gym.agents.models.model_names import resolve_model
from eto_gym.agents.models.quiet import without_deprecations
from eto_gym.agents.models.sizes import check_vocabulary
from eto_gym.agents.models.template import settle_template
from eto_gym.errors import DataError, EtoGymError, require
from eto_gym.files import DIGESTS_FILE, strict, write_digests, write_json
from eto_gym.trainers.errors import disk_errors
from eto_gym.trainers.model.cards import CARD, model_card
from eto_gym.trainers.settings.base import SettingsError, TrainSettings

if TYPE_CHECKING:
    from peft import LoraConfig

REPORT_FILE = "training.json"
"""Written last into a finished model folder: what was trained, with which settings and result."""

METRICS_FILE = "metrics.jsonl"
"""One line per logged step: while training runs in the workspace, in the end beside the model."""


def load_tokenizer(
    model: str | Path, chat_template: str = "", template_kwargs: Mapping[str, Any] | None = None
) -> Any:
    """Load the tokenizer of a model folder or hub name; a missing pad token becomes the end's.

    Args:
        model: Folder or name.
        chat_template: File of a chat template that replaces the model's own, or the template.
        template_kwargs: Variables that are set in the template; see `settle_template`. A template
            that reads the clock has the date of the run from then on.

    Raises:
        DataError: There is no such file, or the model's embedding lacks a token.
    """
    transformers = require("transformers", feature="training", extra="train")
    tokenizer = from_pretrained(transformers.AutoTokenizer, resolve_model(model))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    check_vocabulary(tokenizer, embedding_rows(model), model)
    if chat_template:
        tokenizer.chat_template = read_template(chat_template)
    if isinstance(tokenizer.chat_template, str):
        tokenizer.chat_template = settle_template(tokenizer.chat_template, template_kwargs or {})
    return tokenizer


def default_codec(tokenizer: Any, *, mask_thoughts: bool = False) -> Any:
    """Return the codec that tokenises conversations with the tokenizer's own chat template."""
    from eto_gym.agents.models.codec import ChatCodec

    return ChatCodec(tokenizer, mask_thoughts=mask_thoughts)


def load_for_training(model: str | Path, settings: TrainSettings) -> Any:
    """Load a causal language model as `settings` wants it trained, without new adapters.

    Whole models are loaded in float32, which small steps need; a frozen base under adapters is
    loaded in bf16 where that is the precision of training. A folder that holds an adapter is loaded
    with its base: trainable when `settings.lora_r` is set, else merged into the base.

    Raises:
        SettingsError: An adapter that is trained on has another rank than the settings say.
        DataError: There is no such model.
        MissingDependencyError: A package is not installed.
    """
    require("torch", feature="training", extra="train")
    transformers = require("transformers", feature="training", extra="train")
    model = resolve_model(model)
    options = loading_options(settings)
    if not is_adapter(model):
        return from_pretrained(transformers.AutoModelForCausalLM, str(model), **options)
    peft = require("peft", feature="LoRA adapters", extra="train")
    config = peft.PeftConfig.from_pretrained(str(model))
    base = load_base(Path(model), **options)
    if settings.lora_r:
        if settings.lora_r != config.r:
            raise SettingsError(
                f"{model} holds an adapter of rank {config.r}, and training goes on with it: "
                f"expected lora_r={config.r}, got {settings.lora_r}"
            )
        adapted = with_adapter(base, model, is_trainable=True)
        # Where the base is now, for the adapter that will be written.
        adapted.peft_config["default"].base_model_name_or_path = base_of(model)
        return adapted
    merged = with_adapter(base, model).merge_and_unload()
    return merged.requires_grad_(True)  # PEFT froze the base


def loading_options(settings: TrainSettings) -> dict[str, Any]:
    """Return what `from_pretrained` is told of precision: "dtype", and 4 bits for QLoRA."""
    torch = require("torch", feature="training", extra="train")
    bf16 = uses_bf16(settings)
    options: dict[str, Any] = {
        "dtype": torch.bfloat16 if bf16 and settings.lora_r else torch.float32
    }
    if settings.qlora:
        options["quantization_config"] = quantization_config(
            "4bit", feature="QLoRA", compute=torch.bfloat16 if bf16 else torch.float32
        )
    return options


def lora_config(settings: TrainSettings) -> LoraConfig:
    """Return PEFT's configuration: adapters on every linear layer except the output layer.

    Raises:
        MissingDependencyError: PEFT is not installed.
    """
    peft = require("peft", feature="LoRA adapters", extra="train")
    config: LoraConfig = peft.LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha or 2 * settings.lora_r,
        lora_dropout=settings.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return config


def with_adapters(model: Any, settings: TrainSettings, **options: Any) -> Any:
    """Return the model with the adapters of the settings, for a Trainer that adds none itself.

    A model that has adapters already keeps them. `options` are for PEFT's `get_peft_model`.
    """
    if settings.lora_r and not hasattr(model, "peft_config"):
        peft = require("peft", feature="LoRA adapters", extra="train")
        with without_deprecations():
            model = peft.get_peft_model(model, lora_config(settings), **options)
    if settings.gradient_checkpointing and hasattr(model, "peft_config"):
        model.enable_input_require_grads()
    return model


def bare_model(model: Any) -> Any:
    """Return the model without PEFT's wrapper; its layers keep their adapters."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def uses_bf16(settings: TrainSettings) -> bool:
    """Whether this machine trains in bf16 under these settings."""
    torch = require("torch", feature="training", extra="train")
    if settings.precision in ("fp32", "bf16"):
        return settings.precision == "bf16"
    if settings.precision == "hardware" and not torch.accelerator.is_available():
        from eto_gym.agents.models.hardware import multiplies_bf16

        return multiplies_bf16()
    return bool(torch.cuda.is_available() and torch.cuda.is_bf16_supported())


def hash_model(model: str | Path) -> str:
    """Return a hash of a model folder's configuration and weights; of the name for a hub model."""
    folder = Path(resolve_model(model, ask_hub=False))
    digest = hashlib.sha256()
    if not folder.is_dir():
        digest.update(str(model).encode())
        return digest.hexdigest()
    for path in sorted(folder.iterdir()):
        if path.suffix in {".safetensors", ".json"} and path.name != REPORT_FILE:
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def write_model(
    model: Any,
    tokenizer: Any,
    output: Path,
    report: dict[str, Any],
    settings: TrainSettings,
    *,
    weights: dict[str, Any] | None = None,
) -> None:
    """Write model, tokenizer and report into a temporary folder, then move it to `output`.

    A folder at `output` is replaced if an earlier training wrote it.

    Args:
        model: A model of transformers, or of PEFT: then the adapter alone is written, or the merged
            model where `settings.merge_adapter` is set.
        tokenizer: Its tokenizer.
        output: Where the folder goes.
        report: What becomes `REPORT_FILE`.
        settings: The settings of the training.
        weights: The whole model's weights, where `model` holds only a part of them.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    staging = output.with_name(f"{output.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        if settings.merge_adapter and hasattr(model, "peft_config"):
            model, weights = _merged(model, staging, weights), None
            shutil.rmtree(staging, ignore_errors=True)
        settle_generation(model, tokenizer)
        _save(model, staging, weights)
        write_folder(staging, tokenizer, report, base=_name_of(model))
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    replace_folder(staging, output)


def write_folder(
    staging: Path, tokenizer: Any, report: dict[str, Any], *, base: str | None
) -> None:
    """Write what goes with the weights in `staging`, and have all of it on disk."""
    tokenizer.save_pretrained(staging)
    # In place of PEFT's, which is an empty form.
    card = model_card(report, base=base, adapter=is_adapter(staging))
    (staging / CARD).write_text(card, encoding="utf-8")
    if metrics := report.get("metrics"):
        lines = [json.dumps(strict(entry), allow_nan=False) + "\n" for entry in metrics]
        (staging / METRICS_FILE).write_text("".join(lines), encoding="utf-8")
    write_json(staging / REPORT_FILE, report)
    # Reports and metrics are read as text, and hold times.
    write_digests(staging / DIGESTS_FILE, leave_out=(REPORT_FILE, METRICS_FILE, CARD))
    for path in staging.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _name_of(model: Any) -> str | None:
    """Return what a model was loaded from, of an adapter the base; None where nothing tells."""
    if hasattr(model, "peft_config"):
        return model.peft_config["default"].base_model_name_or_path or None
    return getattr(model.config, "_name_or_path", None) or None


def replace_folder(staging: Path, output: Path) -> None:
    """Move a finished folder to `output`, in place of what an earlier training wrote there."""
    check_output(output)
    old = output.with_name(f"{output.name}.replaced")
    if output.exists():
        shutil.rmtree(old, ignore_errors=True)
        output.rename(old)
    staging.rename(output)
    shutil.rmtree(old, ignore_errors=True)


def check_output(output: Path) -> None:
    """Refuse an output folder with anything in it that no training wrote.

    Raises:
        DataError: There is.
    """
    if output.exists() and not (output / REPORT_FILE).is_file() and any(output.iterdir()):
        raise DataError(
            f"{output} exists and holds no finished training: it is not overwritten. Give another "
            "output folder, or remove this one."
        )


def merge_adapter(adapter: str | Path, output: str | Path) -> None:
    """Write a whole model: the base of an adapter with the adapter merged in.

    Args:
        adapter: Folder of the adapter.
        output: Folder of the new model.

    Raises:
        DataError: `adapter` holds no adapter, its base is gone, or `output` holds something else.
    """
    adapter, output = Path(adapter), Path(output)
    check_output(output)
    if not is_adapter(adapter):
        raise DataError(f"{adapter} holds no adapter (there is no {CONFIG_FILE} in it)")
    require("peft", feature="LoRA adapters", extra="train")
    base = load_base(adapter)
    staging = output.with_name(f"{output.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(output, "the merged model"):
        try:
            merged = with_adapter(base, adapter).merge_and_unload()
            tokenizer = load_tokenizer(adapter)
            settle_generation(merged, tokenizer)
            merged.save_pretrained(staging)
            told = {"method": "merge", "adapter": str(adapter)}
            write_folder(staging, tokenizer, told, base=base_of(adapter))
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
    replace_folder(staging, output)


def load_base(adapter: Path, **options: Any) -> Any:
    """Load the base model that an adapter names.

    Raises:
        DataError: It is a folder that is not there any more.
    """
    transformers = require("transformers", feature="training", extra="train")
    return from_pretrained(transformers.AutoModelForCausalLM, base_of(adapter), **options)


def push_model(folder: Path, repository: str, *, private: bool) -> None:
    """Upload a finished model folder to the Hugging Face hub.

    Raises:
        DataError: The hub cannot be reached, or refuses; the folder stays as it is.
    """
    hub = require("huggingface_hub", feature="uploading a model", extra="train")
    try:
        api = hub.HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=str(folder))
    except Exception as err:  # the network, the token, the name: whatever the hub says
        raise DataError(
            f"{folder} is finished, but could not be uploaded to {repository}: {err}"
        ) from err


def _save(model: Any, folder: Path, weights: dict[str, Any] | None = None) -> None:
    """Write weights and configuration; of several adapters, the trained one."""
    options: dict[str, Any] = {"state_dict": weights} if weights is not None else {}
    if hasattr(model, "peft_config"):
        options["selected_adapters"] = ["default"]
        base = model.peft_config["default"].base_model_name_or_path
        if base and Path(base).is_dir():  # so that the adapter can be loaded from anywhere
            model.peft_config["default"].base_model_name_or_path = str(Path(base).resolve())
    elif weights is not None:  # collected one by one, so that tied ones no longer share memory
        tied = model.all_tied_weights_keys
        options["state_dict"] = {name: value for name, value in weights.items() if name not in tied}
    model.save_pretrained(folder, **options)
    config = getattr(bare_model(model), "generation_config", None)
    if hasattr(model, "peft_config") and config is not None:  # PEFT writes none
        config.to_json_file(folder / "generation_config.json")


def settle_generation(model: Any, tokenizer: Any) -> None:
    """Let whoever loads a model stop where our policy does, by what is saved with it.

    The token that ends a reply in the chat template joins the tokens that end generation, and
    padding has the tokenizer's token. All else stays as the model came.
    """
    config = getattr(bare_model(model), "generation_config", None)
    if config is None or not getattr(tokenizer, "chat_template", None):
        return
    try:
        end = default_codec(tokenizer).end_of_turn_id
    except EtoGymError:  # a template of which no rollout can tell the end; a codec of its own did
        return
    ends = config.eos_token_id
    known = ends if isinstance(ends, list) else [] if ends is None else [ends]
    if end not in known:
        config.eos_token_id = [end, *known] if known else end
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id


def _merged(model: Any, scratch: Path, weights: dict[str, Any] | None) -> Any:
    """Merge an adapter into its base in the base's own precision, not in four bits."""
    _save(model, scratch, weights)
    return with_adapter(load_base(scratch), scratch).merge_and_unload()


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the libraries' notices and bars off the user's terminal; errors still come through."""
    datasets: Any = require("datasets", feature="training", extra="train")
    transformers: Any = require("transformers", feature="training", extra="train")

    names = ("transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes", "torch")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    bars = transformers.utils.logging.is_progress_bar_enabled()
    data_bars = datasets.utils.logging.is_progress_bar_enabled()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    datasets.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()
        if data_bars:
            datasets.utils.logging.enable_progress_bar()
