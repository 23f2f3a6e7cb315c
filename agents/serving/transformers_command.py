"""The command of `transformers serve`, and what it needs: packages, and a model that fits."""

from __future__ import annotations

import sys
from pathlib import Path

from eto_gym.agents.models.adapters import base_with_weights, is_adapter
from eto_gym.agents.models.loading import embedding_rows, load_tokenizer
from eto_gym.agents.models.sizes import adapter_rows, check_vocabulary
from eto_gym.errors import DataError, EtoGymError, require

_PROGRAM = Path(__file__).with_name("transformers_server.py")


def check_packages() -> None:
    """Refuse an environment without what `transformers serve` imports.

    Raises:
        MissingDependencyError: A package is not installed.
    """
    for package in ("openai", "fastapi", "uvicorn", "transformers"):
        require(package, feature="`transformers serve`", extra="serve")


def transformers_command(model: str | None) -> list[str]:
    """Return the command of `transformers serve` in this environment, with its placeholders.

    Args:
        model: What it is to serve; "" for a folder of links, of which the name does not matter.
            None: nothing until it is told to, and then for as long as it is not told otherwise.

    Raises:
        MissingDependencyError: A package is not installed.
        EtoGymError: The model's name has a meaning for it.
    """
    check_packages()
    if model and "@" in model and Path(model).exists():
        raise EtoGymError(
            f"`transformers serve` takes what follows the @ for a revision: rename {model}"
        )
    # -P: not this folder's modules in place of the environment's.
    program = [sys.executable, "-P", str(_PROGRAM)]
    holds = ["--model-timeout", "-1"] if model is None else ["{model}"]
    return [*program, "serve", *holds, "--host", "{host}", "--port", "{port}"]


def check_served(model: str) -> None:
    """Refuse a model whose server would start, and then fail at every request.

    Raises:
        DataError: Its tokenizer has tokens for which its embedding has no row; or it is an adapter
            with an embedding of its own, which `transformers serve` cannot put on the base.
    """
    if is_adapter(model):
        if adapter_rows(model) is not None:
            raise DataError(
                f"the adapter in {model} brings an embedding of its own, which `transformers serve`"
                f" cannot load: make a whole model of it first, by `eto-gym merge {model} OUT`"
            )
        base_with_weights(model)  # tells what is missing, where its tokenizer would not
    check_vocabulary(load_tokenizer(model), embedding_rows(model), model)
