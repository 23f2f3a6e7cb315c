"""Resolves the name of a model to its folder, GGUF file or hub name."""

from __future__ import annotations

import functools
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from eto_gym.agents.models import smollm2
from eto_gym.agents.models.gguf import check, converted, folder_of, gguf_of
from eto_gym.errors import DataError, require

_ON_HUB = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_CONFIGS = ("config.json", "adapter_config.json")
_PATIENCE = 10.0
"""Seconds after which a hub that does not answer counts as out of reach."""


def resolve_model(name: str | Path, *, ask_hub: bool = True) -> str:
    """Return the folder, or the hub name, that transformers loads for `name`.

    Args:
        name: A model folder; "smollm2", the downloaded SmolLM2-135M-Instruct; a GGUF file or a
            folder that holds one, which is converted at its first use; or a name on the Hugging
            Face hub.
        ask_hub: Ask the hub whether it has a model that is not in its cache.

    Raises:
        DataError: There is no such folder or file, and it is no name on the hub either; or a GGUF
            file is damaged or of an unknown kind.
        MissingDependencyError: A package for GGUF files is not installed.
    """
    file = check_model(name, ask_hub=ask_hub)
    if file is not None:
        return str(converted(file))
    return str(smollm2.folder()) if str(name) == smollm2.NAME else str(name)


def check_model(name: str | Path, *, ask_hub: bool = True) -> Path | None:
    """Raise what `resolve_model` does as far as it can be told at once; return the GGUF file.

    Nothing is converted or loaded.
    """
    text = str(name)
    if text == smollm2.NAME:
        if not smollm2.folder().is_dir():
            raise DataError(
                f"the model {text!r} is not on this machine yet: run `eto-gym data download {text}`"
            )
        return None
    if (file := gguf_of(name)) is not None:
        if not folder_of(file).is_dir():
            check(file)
        return file
    path = Path(name)
    if path.is_dir():
        if not any((path / config).is_file() for config in _CONFIGS):
            raise DataError(
                f"{text} holds no model: expected {' or '.join(_CONFIGS)}, or a GGUF file, in it"
            )
    elif path.exists():
        raise DataError(f"{text} is no model: expected a model folder, or a file ending in .gguf")
    elif _ON_HUB.fullmatch(text):
        if ask_hub:
            _check_on_hub(text)
    else:
        raise DataError(
            f"there is no model {text!r}: expected a model folder, a GGUF file, {smollm2.NAME!r}, "
            "or a name on the Hugging Face hub (OWNER/NAME)"
        )
    return None


def folder_of_model(name: str | Path) -> Path:
    """Return the folder that a model's name stands for here, whether or not it is there yet.

    Nothing is converted, and no hub is asked: any other name is returned as a path.
    """
    if str(name) == smollm2.NAME:
        return smollm2.folder()
    with suppress(DataError):
        if (file := gguf_of(name)) is not None:
            return folder_of(file)
    return Path(name)


@functools.cache
def _check_on_hub(name: str) -> None:
    """Tell at once, in one line, that a model is neither in the hub's cache nor to be had.

    The libraries would ask again and again for more than a minute.
    """
    hub: Any = require("huggingface_hub", feature="a model of the Hugging Face hub", extra="train")
    try:
        if any(isinstance(hub.try_to_load_from_cache(name, config), str) for config in _CONFIGS):
            return
        hub.HfApi().model_info(name, timeout=_PATIENCE)
    except Exception as err:  # the network, the name, the token: whatever the hub says
        raise DataError(
            f"there is no folder {name!r}, and the Hugging Face hub does not offer such a model: "
            f"{one_line(err)}"
        ) from err


def one_line(err: BaseException) -> str:
    """Return what an error says, without line breaks, and not at length."""
    text = " ".join(str(err).split()) or type(err).__name__
    return text if len(text) <= 400 else text[:400] + " ..."
