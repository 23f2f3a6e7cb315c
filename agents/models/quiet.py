"""Keeps the progress bars and notices of libraries off the terminal."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from eto_gym.errors import require


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Keep the bars of transformers off the terminal, where a rollout shows its own."""
    transformers: Any = require("transformers", feature="a local language model", extra="train")
    bars = transformers.utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


@contextmanager
def without_gguf_bar() -> Iterator[None]:
    """Keep the bar of transformers' GGUF reader off the terminal, which no setting switches."""
    try:
        reader: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
        shown = reader.tqdm
    except (ImportError, AttributeError):  # another version has none, or another one
        yield
        return
    reader.tqdm = partial(shown, disable=True)
    try:
        yield
    finally:
        reader.tqdm = shown


@contextmanager
def without_deprecations() -> Iterator[None]:
    """Keep what one library says of its use of another off the terminal: no user can mend it.

    PEFT asks a model for an attribute that transformers has renamed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def hide_missing_kernels() -> None:
    """Drop what bitsandbytes says when it is imported on a CPU that multiplies bf16.

    It misses a package of kernels from the hub there, which makes 4-bit products faster and is not
    needed. transformers imports it through PEFT, whether or not anything is quantized.
    """
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_is_other)  # once at most


def _is_other(record: logging.LogRecord) -> bool:
    return "kernels-community" not in str(record.msg)
