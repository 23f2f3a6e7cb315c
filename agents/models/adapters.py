"""Folders that hold a LoRA adapter: which base they belong to, and how both become one model."""

from __future__ import annotations

import json
from pathlib import Path

from eto_gym.errors import DataError, require

CONFIG_FILE = "adapter_config.json"

_WEIGHTS = ("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json")
_TEXT = ("*.json", "*.jinja", "*.model", "*.txt")  # what tokenizers are made of


def is_adapter(model: str | Path) -> bool:
    """Whether a folder holds an adapter, not a whole model."""
    return (Path(model) / CONFIG_FILE).is_file()


def named_base(adapter: str | Path) -> str:
    """Return what the configuration of an adapter names as its base, be it there or not.

    Raises:
        DataError: The adapter names none.
    """
    path = Path(adapter) / CONFIG_FILE
    try:
        name = json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, RecursionError, LookupError, TypeError) as err:
        raise DataError(f"{path} does not tell what the adapter belongs to: {err}") from err
    if not isinstance(name, str) or not name:
        raise DataError(f"{path} does not tell what the adapter belongs to: {name!r}")
    return name


def base_of(adapter: str | Path) -> str:
    """Return the folder or hub name of the model that an adapter belongs to.

    An adapter names a folder by its whole path. Where a run folder with both was moved, the base
    lies beside the adapter as it did: stages/base-KEY/model beside stages/sft-KEY/model.

    Raises:
        DataError: The adapter names none, or a folder that is not there any more.
    """
    name = named_base(adapter)
    if Path(name).is_absolute() and not Path(name).is_dir():
        if (moved := _moved_along(Path(name), Path(adapter))) is not None:
            return str(moved)
        raise DataError(
            f"the adapter in {adapter} belongs to the model in {name}, which is not there any "
            "more: put it back, or name its new place as base_model_name_or_path in "
            f"{Path(adapter) / CONFIG_FILE}"
        )
    return name


def _moved_along(base: Path, adapter: Path) -> Path | None:
    """Return where the stage of a base lies beside that of an adapter, if it does.

    The names of both hold a hash of what they were made of, so it is the same one.
    """
    stages = adapter.resolve().parent.parent
    moved = stages / base.parent.name / base.name
    is_stage = stages.name == base.parent.parent.name == "stages"
    return moved if is_stage and (moved / "config.json").is_file() else None


def base_with_weights(adapter: str | Path) -> Path:
    """Return the folder of an adapter's base.

    Raises:
        DataError: The base is not there, or has no weights as safetensors.
    """
    base = _local(base_of(adapter), Path(adapter))
    if not any(base.glob("*.safetensors")):
        raise DataError(f"expected the base's weights as safetensors in {base}, found none")
    return base


def link_whole(adapter: str | Path, folder: str | Path) -> None:
    """Make a folder that programs of transformers load as the base with the adapter on top.

    It holds links to the adapter's files, and to the base's weights and configuration: nothing is
    copied. (transformers takes a folder with both for a whole model with an adapter in it.)

    Args:
        adapter: Folder of the adapter.
        folder: A folder that does not exist yet.

    Raises:
        DataError: The base is not there, or has no weights as safetensors.
    """
    adapter, folder = Path(adapter), Path(folder)
    base = base_with_weights(adapter)
    folder.mkdir(parents=True)
    for path in adapter.iterdir():
        if path.is_file() and path.name != "config.json":
            (folder / path.name).symlink_to(path.resolve())
    # A tokenizer is taken whole, from one place: the adapter's own where it has one.
    patterns = _WEIGHTS if (adapter / "tokenizer_config.json").exists() else (*_WEIGHTS, *_TEXT)
    for pattern in patterns:
        for path in base.glob(pattern):
            if not (folder / path.name).is_symlink():
                (folder / path.name).symlink_to(path.resolve())


def _local(base: str, adapter: Path) -> Path:
    """Return the folder of a base on this machine; one on the hub is downloaded to its cache."""
    if Path(base).is_dir():
        return Path(base)
    hub = require("huggingface_hub", feature="a model of the Hugging Face hub", extra="train")
    try:
        return Path(hub.snapshot_download(base, allow_patterns=[*_WEIGHTS, *_TEXT]))
    except Exception as err:  # the network, the name, the token: whatever the hub says
        raise DataError(
            f"the adapter in {adapter} belongs to {base!r}, which cannot be loaded: {err}"
        ) from err
