"""A model's folder with another chat template in it, for programs that take none beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eto_gym.agents.models.adapters import is_adapter, link_whole
from eto_gym.agents.models.codec import ChatCodec
from eto_gym.agents.models.loading import load_tokenizer, read_template
from eto_gym.agents.models.template import settle_template
from eto_gym.errors import DataError, require

TEMPLATE_FILE = "chat_template.jinja"
_OTHERS = (TEMPLATE_FILE, "chat_template.json")  # where a model's own template lies
_CONFIG = "tokenizer_config.json"  # older models keep it here


def settled(model: str, template: str, variables: Mapping[str, Any]) -> str:
    """Return a template as training and play settle it, with its variables and its date.

    Args:
        model: Folder or name of the model that is to use it.
        template: A file, or the template itself; "" for the model's own.
        variables: What is set in it.

    Raises:
        DataError: There is no such file.
        EtoGymError: No conversation can be told with it, or a variable is none.
    """
    tokenizer = load_tokenizer(model)
    text = read_template(template) if template else tokenizer.chat_template
    if not isinstance(text, str):
        raise DataError(f"{model} has no chat template of its own: give one by --chat-template")
    text = settle_template(text, variables)
    ChatCodec(tokenizer, chat_template=text)  # refuses one that no policy could be trained on
    return text


def link_with_template(model: str, folder: str | Path, template: str) -> None:
    """Make a folder with links to a model's files, and with this template in place of its own.

    Args:
        model: Folder of a model or of an adapter, or a name on the Hugging Face hub.
        folder: A folder that does not exist yet.
        template: The template.

    Raises:
        DataError: The model, or the base of the adapter, cannot be had.
    """
    folder = Path(folder)
    link_model(model, folder)
    for name in _OTHERS:
        (folder / name).unlink(missing_ok=True)
    config = folder / _CONFIG
    if config.exists():
        told = json.loads(config.read_bytes())
        if told.pop("chat_template", None) is not None:
            config.unlink()
            config.write_text(json.dumps(told), encoding="utf-8")
    (folder / TEMPLATE_FILE).write_text(template, encoding="utf-8", newline="")


def link_model(model: str, folder: str | Path, template: str | None = None) -> None:
    """Make a folder with links to a model's files.

    Args:
        model: Folder of a model or of an adapter, or a name on the Hugging Face hub.
        folder: A folder that does not exist yet.
        template: A chat template in place of the model's own; None: its own.

    Raises:
        DataError: The model, or the base of the adapter, cannot be had.
    """
    folder = Path(folder)
    if template is not None:
        link_with_template(model, folder, template)
    elif is_adapter(model):
        link_whole(model, folder)
    else:
        folder.mkdir(parents=True)
        for path in _folder_of(model).iterdir():
            if path.is_file():
                (folder / path.name).symlink_to(path.resolve())


def _folder_of(model: str) -> Path:
    if Path(model).is_dir():
        return Path(model)
    hub = require("huggingface_hub", feature="a model of the Hugging Face hub", extra="train")
    try:
        return Path(hub.snapshot_download(model))
    except Exception as err:  # the network, the token: whatever the hub says
        raise DataError(f"the model {model!r} cannot be had from the hub: {err}") from err
