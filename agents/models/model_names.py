"""What a model is called on the command line, and the folder or hub name that it means."""

from __future__ import annotations

import re
from pathlib import Path

from eto_gym.agents.models import smollm2
from eto_gym.agents.models.gguf import converted, gguf_of
from eto_gym.errors import DataError

_ON_HUB = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def resolve_model(name: str | Path) -> str:
    """Return the folder, or the hub name, that transformers loads for `name`.

    Args:
        name: A model folder; "smollm2", the downloaded SmolLM2-135M-Instruct; a GGUF file or a
            folder that holds one, which is converted at its first use; or a name on the Hugging
            Face hub.

    Raises:
        DataError: There is no such folder or file, and it is no name on the hub either; or a GGUF
            file is damaged or of an unknown kind.
        MissingDependencyError: A package for GGUF files is not installed.
    """
    text = str(name)
    if text == smollm2.NAME:
        if not smollm2.folder().is_dir():
            raise DataError(
                f"the model {text!r} is not on this machine yet: run `eto-gym data download {text}`"
            )
        return str(smollm2.folder())
    if (file := gguf_of(name)) is not None:
        return str(converted(file))
    if not Path(name).exists() and not _ON_HUB.fullmatch(text):
        raise DataError(
            f"there is no model {text!r}: expected a model folder, a GGUF file, {smollm2.NAME!r}, "
            "or a name on the Hugging Face hub (OWNER/NAME)"
        )
    return text
