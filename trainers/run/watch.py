"""Monitoring options of a training (progress, evaluation, early stopping), and its tokenizer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eto_gym.errors import DataError
from eto_gym.trainers.data.encoding import Codec
from eto_gym.trainers.model.models import (
    check_output,
    default_codec,
    load_tokenizer,
    quiet_libraries,
)
from eto_gym.trainers.settings.base import TrainSettings

Evaluate = Callable[[int, Any], float | tuple[float, float]]
"""Takes the optimizer step and the model, and returns a score: higher is better.

A second number, where there is one, tells equal scores apart.
"""


@dataclass(frozen=True)
class Watch:
    """How a training run is watched.

    Attributes:
        progress: Show a bar on stderr, where that is a terminal.
        on_evaluate: Scores the model during training, higher is better; the best weights are
            written in the end, and they may be those that training started from.
        every: Optimizer steps between scores; 0: each epoch.
        patience: Stop after this many scores without a new best; 0: never.
    """

    progress: bool = True
    on_evaluate: Evaluate | None = None
    every: int = 0
    patience: int = 0


@contextlib.contextmanager
def prepared(
    settings: TrainSettings, model: str | Path, output: str | Path, codec: Codec | None = None
) -> Iterator[tuple[Any, Codec]]:
    """Check the output, silence the libraries, and yield the model's tokenizer with its codec.

    Args:
        settings: Those of the training; they may name a chat template.
        model: Where training starts from.
        output: Where it ends.
        codec: Tokenises conversations; by default the model's own chat template does.

    Raises:
        DataError: There is something else at the output, no chat template where one is named, or
            nothing to pad with.
    """
    check_output(Path(output))
    with quiet_libraries():
        tokenizer = load_tokenizer(model, settings.chat_template, settings.template_kwargs)
        codec = codec or default_codec(tokenizer, mask_thoughts=settings.mask_thoughts)
        if tokenizer.pad_token is None:  # and so no token that ends a text; one ends a turn
            if (end := getattr(codec, "end_of_turn_id", None)) is None:
                raise DataError(
                    f"the tokenizer of {model} has no token that ends a text, and none to pad "
                    "with: set one of them (pad_token)"
                )
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(end)
        yield tokenizer, codec
