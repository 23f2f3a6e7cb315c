"""Atomic file writes: a file is whole or not there."""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def replacing(path: str | Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the same folder; its file takes the place of `path` at the end.

    A reader finds the old file or the new one. With `durable` the new one is on disk before it
    takes its place, so a machine that loses its power keeps one of them too; without, many files
    are written faster. If the block raises, `path` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        if durable:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        partial.chmod(0o666 & ~_umask())  # a temporary file is for its owner only
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path: str | Path, text: str, *, durable: bool = True) -> None:
    """Write a UTF-8 text file atomically; folders above it are made."""
    with replacing(path, durable=durable) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as strict JSON atomically; folders above it are made.

    A number that JSON does not know (NaN, an infinite bound) is written as null.
    """
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
        json.dump(strict(value), file, indent=1, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def strict(value: Any) -> Any:
    """Return a value with None in place of every float that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    return value


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
