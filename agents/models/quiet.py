"""Keeps the progress bars of transformers off the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from eto_gym.errors import require


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Keep the bars of transformers off the terminal, where a rollout shows its own."""
    transformers: Any = require("transformers", feature="a local language model", extra="train")
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
