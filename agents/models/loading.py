"""Load a causal language model and its tokenizer, with adapter and quantization."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from eto_gym.agents.models.adapters import base_of, is_adapter, named_base
from eto_gym.agents.models.hardware import DTYPES, expand_for_many_rows, pack_weights, played_dtype
from eto_gym.agents.models.model_names import one_line, resolve_model
from eto_gym.agents.models.quiet import without_deprecations, without_progress_bars
from eto_gym.agents.models.sizes import adapter_rows
from eto_gym.errors import DataError, EtoGymError, check_choice, require
from eto_gym.files import expanded

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def from_pretrained(auto: Any, name: str | Path, **options: Any) -> Any:
    """Load a model, tokenizer or configuration without running code that comes with it.

    Args:
        auto: A class of transformers, such as `AutoTokenizer`.
        name: Folder or name on the Hugging Face hub.
        options: For its `from_pretrained`.

    Raises:
        DataError: It cannot be loaded without its own code; a file of it is missing or damaged; or
            the hub cannot be reached or refuses.
    """
    try:
        # Without the argument, transformers asks on standard input whether to run the code.
        return auto.from_pretrained(name, trust_remote_code=False, **options)
    except EtoGymError:
        raise
    except Exception as err:  # whatever the libraries raise at files that are not as they expect
        if "trust_remote_code" in str(err):
            raise DataError(
                f"{name} cannot be loaded without Python code of its own, which eto-gym never "
                "runs: take a model of an architecture that transformers knows"
            ) from err
        raise DataError(f"could not load the model {str(name)!r}: {one_line(err)}") from err


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer that belongs to a model.

    Raises:
        DataError: It needs code of its own.
    """
    require("transformers", feature="a local language model", extra="train")
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = from_pretrained(AutoTokenizer, resolve_model(name))
    return tokenizer


def embedding_rows(name: str | Path) -> int | None:
    """Return the rows of a model's embedding, as its configuration or its adapter says.

    Raises:
        DataError: The configuration cannot be read.
    """
    require("transformers", feature="a local language model", extra="train")
    from transformers import AutoConfig

    name = resolve_model(name)
    if is_adapter(name):
        if (rows := adapter_rows(name)) is not None:
            return rows
        name = base_of(name)
    config = from_pretrained(AutoConfig, name).get_text_config()
    size = getattr(config, "vocab_size", None)
    return size if isinstance(size, int) else None


def with_adapter(base: Any, adapter: str | Path, **options: Any) -> Any:
    """Put an adapter on its base; one that was trained on a resized embedding brings it along.

    Args:
        base: The loaded base.
        adapter: Folder or name of the adapter.
        options: For `PeftModel.from_pretrained`.

    Raises:
        DataError: It does not fit the base, or cannot be read.
    """
    peft: Any = require("peft", feature="a LoRA adapter", extra="train")
    rows = adapter_rows(adapter)
    if rows is not None and rows != base.get_input_embeddings().weight.shape[0]:
        base.resize_token_embeddings(rows, mean_resizing=False)  # the adapter holds all of them
    try:
        with without_deprecations():
            return peft.PeftModel.from_pretrained(base, str(adapter), **options)
    except EtoGymError:
        raise
    except Exception as err:  # whatever the libraries raise at files that are not as they expect
        raise DataError(
            f"the adapter in {adapter} cannot be put on {type(base).__name__}: {one_line(err)}"
        ) from err


def read_template(template: str) -> str:
    """Return a chat template that is given by a file, or as it is.

    Raises:
        DataError: It has no Jinja in it, and is no file that can be read as text, or one without.
    """
    if _is_jinja(template):
        return template
    try:
        text = expanded(template).read_text(encoding="utf-8")
    except (OSError, ValueError) as err:
        raise DataError(f"cannot read the chat template {template[:200]!r}: {err}") from err
    if not _is_jinja(text):
        raise DataError(f"{template} holds no chat template: expected Jinja, and there is none")
    return text


def _is_jinja(text: str) -> bool:
    return "{{" in text or "{%" in text


def load_model(
    name: str,
    *,
    adapter: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    quantization: Literal["none", "4bit", "8bit"] = "none",
    pack: bool = True,
) -> PreTrainedModel:
    """Load a causal language model in eval mode, to play with it.

    Args:
        name: What `resolve_model` takes: a folder, a GGUF file, "smollm2", or a name on the Hugging
            Face hub. Code that comes with a model is never run.
            The folder of a LoRA adapter stands for its base with the adapter on top.
        adapter: Folder or name of a LoRA adapter, put on top.
        dtype: "auto" (as saved), "float32", "bfloat16" or "float16".
        device: "auto" takes a GPU where there is one.
        quantization: "4bit" (NF4, double quantization) or "8bit" by bitsandbytes.
        pack: On a CPU, lay weights in bf16 out for playing alone: the layers then compute what they
            did, and their weights cannot be read, as compiling or saving would.

    Raises:
        DataError: The base of an adapter is not there, or the model needs code of its own.
        MissingDependencyError: A package for what was asked is not installed.
        UnknownNameError: No such dtype or quantization.
    """
    check_choice("dtype", dtype, DTYPES)
    check_choice("quantization", quantization, ("none", "4bit", "8bit"))
    require("transformers", feature="a local language model", extra="train")
    import torch
    from transformers import AutoModelForCausalLM

    name = resolve_model(name)
    if is_adapter(name):
        require("peft", feature="a LoRA adapter", extra="train")
        base = base_of(name)  # tells what is missing, where transformers would not
        # transformers would look for the base where the adapter says that it was.
        elsewhere = base != named_base(name)
        if adapter is None and (elsewhere or adapter_rows(name) is not None):
            name, adapter = base, name
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = played_dtype(dtype, device)
    options: dict[str, Any] = {"dtype": dtype, "device_map": {"": device}}
    if quantization != "none":
        options["quantization_config"] = quantization_config(
            quantization,
            feature=f"{quantization} weights",
            compute=torch.bfloat16 if dtype == "auto" else getattr(torch, dtype),
        )
    with without_progress_bars():
        model: Any = from_pretrained(AutoModelForCausalLM, name, **options)
    if adapter is not None:
        model = with_adapter(model, adapter)
    loaded: PreTrainedModel = model.eval()
    if quantization == "4bit" and device == "cpu":
        expand_for_many_rows(loaded)
    if pack and device == "cpu":
        pack_weights(loaded)
    return loaded


def quantization_config(kind: str, *, feature: str, compute: Any) -> Any:
    """Return how bitsandbytes is to hold weights.

    Args:
        kind: "4bit" (NF4, double quantization) or "8bit".
        feature: What needs it, for the message where bitsandbytes is missing.
        compute: Type of the numbers that 4-bit weights are multiplied in.

    Raises:
        MissingDependencyError: bitsandbytes is not installed.
    """
    require("bitsandbytes", feature=feature, extra="qlora")
    from transformers import BitsAndBytesConfig

    if kind == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )
