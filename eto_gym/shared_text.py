"""Text through the shared memory of `gymnasium.vector.AsyncVectorEnv`.

Gymnasium reads text out of its shared memory once, when the vector environment is made, and hands
those strings out forever. Registered for `UnicodeText` is a view that reads the memory whenever it
is asked, so that asynchronous vector environments of text are right with their default settings.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

from gymnasium.vector.utils import (
    create_shared_memory,
    read_from_shared_memory,
    write_to_shared_memory,
)

from eto_gym.spaces import UnicodeText

CELL_BYTES = 32_768
"""Room per environment; what is longer goes through a file."""


class SharedTexts(Sequence[str]):
    """One text per environment, written by worker processes and read by the one that made it.

    The texts change under the reader's hands, as arrays in shared memory do; a deep copy, which is
    what `AsyncVectorEnv` returns unless made with `copy=False`, is a tuple of strings.
    """

    def __init__(self, count: int, context: Any) -> None:
        """Reserve the memory.

        Args:
            count: Number of environments.
            context: The `multiprocessing` context of the worker processes.
        """
        self._cells = context.RawArray(ctypes.c_char, count * CELL_BYTES)
        self._sizes = context.RawArray(ctypes.c_int64, count)
        # Made by the first text that needs it.
        self._folder = Path(tempfile.gettempdir()) / f"eto-gym-texts-{uuid.uuid4().hex}"
        weakref.finalize(self, _remove, self._folder, os.getpid())

    def write(self, index: int, text: str) -> None:
        """Set the text of an environment; only its own process may do so."""
        data = text.encode("utf-8", "surrogatepass")
        if len(data) <= CELL_BYTES:
            start = index * CELL_BYTES
            memoryview(self._cells).cast("B")[start : start + len(data)] = data
        else:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            (self._folder / str(index)).write_bytes(data)
        self._sizes[index] = len(data)

    def _read(self, index: int) -> str:
        size = self._sizes[index]
        if size <= CELL_BYTES:
            start = index * CELL_BYTES
            data = bytes(memoryview(self._cells).cast("B")[start : start + size])
        else:
            data = (self._folder / str(index)).read_bytes()
        return data.decode("utf-8", "surrogatepass")

    def __len__(self) -> int:
        """Count the environments."""
        return len(self._sizes)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        """Return what is there now."""
        if isinstance(index, slice):
            return tuple(self._read(i) for i in range(len(self))[index])
        return self._read(range(len(self))[index])

    def __deepcopy__(self, memo: dict[int, Any]) -> tuple[str, ...]:
        """Return the texts of now."""
        return tuple(self)

    def __repr__(self) -> str:
        """Show the texts of now."""
        return f"SharedTexts({list(self)!r})"


def register() -> None:
    """Tell Gymnasium how text spaces use shared memory."""
    create_shared_memory.register(UnicodeText, _create)  # type: ignore[arg-type]
    read_from_shared_memory.register(UnicodeText, _view)  # type: ignore[arg-type]
    write_to_shared_memory.register(UnicodeText, _write)


def _create(space: UnicodeText, n: int = 1, ctx: Any = None) -> SharedTexts:
    if ctx is None:
        import multiprocessing

        ctx = multiprocessing.get_context()
    return SharedTexts(n, ctx)


def _view(space: UnicodeText, shared_memory: SharedTexts, n: int = 1) -> SharedTexts:
    return shared_memory


def _write(space: UnicodeText, index: int, value: str, shared_memory: SharedTexts) -> None:
    shared_memory.write(index, value)


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
