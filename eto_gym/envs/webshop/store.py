"""Read-only arrays and text columns, in memory or mapped from a folder, behind one interface.

A folder holds one `.npy` file per array and one `.bin` file per text column, which another array,
its offsets, cuts into texts. `manifest.json` names every file with its size and SHA-256 and is
written last, into a folder that gets its final name only then.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
import numpy.typing as npt

from eto_gym.errors import DataError

Array = npt.NDArray[Any]

MANIFEST = "manifest.json"
FORMAT = "eto-gym-webshop"
SMALL_FILE = 1 << 22
"""Bytes up to which a file's SHA-256 is checked at every opening: a few milliseconds each."""

VERSION = 1
"""Raised whenever a reader of the former version could misread the files."""


def buffer_of(values: Array) -> memoryview:
    """Return a view whose single items are read much faster than an array's."""
    return memoryview(values)  # type: ignore[arg-type]


class TextColumn(Sequence[str]):
    """A sequence of texts in one UTF-8 block."""

    def __init__(self, block: Array, offsets: Array, *, name: str = "texts") -> None:
        self.name = name
        self._block = buffer_of(block)
        self._offsets = buffer_of(offsets)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        """Return one text, or the list of a slice.

        Raises:
            IndexError: There is no such text.
            DataError: It is no UTF-8.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        try:
            return str(self._block[self._offsets[index] : self._offsets[index + 1]], "utf-8")
        except UnicodeDecodeError as err:
            raise damaged(f"text {index} of {self.name} is no UTF-8") from err

    def raw(self, index: int) -> bytes:
        """Return the UTF-8 form of one text."""
        return bytes(self._block[self._offsets[index] : self._offsets[index + 1]])

    def find(self, text: str) -> int | None:
        """Return where `text` is in a column that is sorted by UTF-8 bytes."""
        wanted = text.encode("utf-8", "surrogatepass")
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self.raw(middle) < wanted:
                low = middle + 1
            else:
                high = middle
        return low if low < len(self) and self.raw(low) == wanted else None


class TextWriter:
    """Collects the texts of a column; only the offsets stay in memory."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.offsets = array("q", [0])

    def append(self, text: str) -> None:
        """Add one text."""
        data = text.encode()
        self._stream.write(data)
        self.offsets.append(self.offsets[-1] + len(data))

    def extend(self, texts: Iterable[str]) -> None:
        """Add several texts."""
        for text in texts:
            self.append(text)


class Store:
    """Named arrays and text columns."""

    def __init__(self, arrays: dict[str, Array], manifest: dict[str, Any]) -> None:
        self._arrays = arrays
        self.manifest = manifest

    def array(self, name: str) -> Array:
        """Return an array.

        Raises:
            DataError: The index has none of this name.
        """
        if name not in self._arrays:
            raise DataError(f"the index holds no {name!r}; build it again")
        return self._arrays[name]

    def texts(self, name: str, *, size: int | None = None) -> TextColumn:
        """Return a text column.

        Raises:
            DataError: It is missing, has not `size` texts, or its offsets leave its block.
        """
        block, offsets = self.array(name + ".bin"), self.array(name + ".offsets")
        if block.dtype != np.uint8 or block.ndim != 1:
            raise damaged(f"{name}.bin holds no bytes")
        count = len(offsets) - 1 if offsets.ndim == 1 and size is None else size or 0
        self.starts(name + ".offsets", size=count, end=len(block))
        return TextColumn(block, offsets, name=name)

    # What an array says is checked once, when it is opened: compiled loops check no bounds.

    def indices(self, name: str, *, below: int, size: int | None = None) -> Array:
        """Return an array of integers in 0..below-1.

        Raises:
            DataError: It is missing, of another length or type, or holds another number.
        """
        values = self._vector(name, "iu", size)
        if len(values) and not 0 <= int(values.min()) <= int(values.max()) < below:
            raise damaged(f"{name} holds numbers outside of 0..{below - 1}")
        return values

    def starts(self, name: str, *, size: int, end: int) -> Array:
        """Return an array of `size` + 1 integers that rise from 0 to `end`.

        Raises:
            DataError: It is missing, of another length or type, or does not rise so.
        """
        values = self._vector(name, "iu", size + 1)
        ends = [*values[:1].tolist(), *values[-1:].tolist()]
        if ends != [0, end] or bool((values[1:] < values[:-1]).any()):
            raise damaged(f"{name} does not rise from 0 to {end}")
        return values

    def floats(self, name: str, *, size: int | None = None) -> Array:
        """Return an array of numbers, none of them NaN.

        Raises:
            DataError: It is missing, of another length or type, or holds a NaN.
        """
        values = self._vector(name, "f", size)
        if len(values) and np.isnan(values.min()):
            raise damaged(f"{name} holds NaN")
        return values

    def count(self, name: str) -> int:
        """Return a number that the manifest gives.

        Raises:
            DataError: It gives none.
        """
        value = self.manifest.get(name)
        if type(value) is not int or value < 0:
            raise damaged(f"the manifest has no number {name!r}")
        return value

    def _vector(self, name: str, kinds: str, size: int | None) -> Array:
        values = self.array(name)
        if values.dtype.kind not in kinds or values.ndim != 1:
            raise damaged(f"{name} is of type {values.dtype} and has {values.ndim} dimensions")
        if size is not None and len(values) != size:
            raise damaged(f"{name} holds {len(values)} numbers and not {size}")
        return values

    @classmethod
    def open(cls, folder: Path, *, verify: bool = False) -> Store:
        """Map the files of a finished folder.

        Args:
            folder: What `FolderWriter.finish` left.
            verify: Compare every file's SHA-256, and not that of files up to `SMALL_FILE` alone.

        Raises:
            DataError: The folder is missing, unfinished, truncated, altered, or of another version.
        """
        manifest = read_manifest(folder)
        for name, entry in manifest["files"].items():
            path = folder / name
            try:
                size = path.stat().st_size
            except OSError as err:
                raise DataError(f"{folder}: {name} is missing; build the index again") from err
            if size != entry["bytes"]:
                raise DataError(
                    f"{path}: expected {entry['bytes']} bytes, got {size}; build the index again"
                )
            if (verify or size <= SMALL_FILE) and _sha256(path) != entry["sha256"]:
                raise DataError(
                    f"{path}: its SHA-256 differs from the manifest's; build the index again"
                )
        arrays = {name.removesuffix(".npy"): _map(folder / name) for name in manifest["files"]}
        return cls(arrays, manifest)


def damaged(what: str) -> DataError:
    """Return the error for an index that cannot be as it was written."""
    return DataError(
        f"the WebShop index is damaged: {what}; `eto-gym data check FOLDER` tells which file is"
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of an index folder.

    Raises:
        DataError: There is none, or it is of another kind or version.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as err:
        raise DataError(
            f"{folder} is no WebShop index: it has no {MANIFEST}. "
            "Build one with: eto-gym data build webshop --out FOLDER ..."
        ) from err
    except (OSError, ValueError, RecursionError) as err:
        raise DataError(f"{path} cannot be read: {err}") from err
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f"{path} is not the manifest of a WebShop index")
    if manifest.get("version") != VERSION:
        raise DataError(
            f"{folder}: expected index version {VERSION}, got {manifest.get('version')!r}; "
            "build the index again"
        )
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(map(_is_listed, files, files.values())):
        raise DataError(f"{path} lists no files; build the index again")
    if manifest.get("sha256", digest := _digest(manifest)) != digest:  # older ones have none
        raise DataError(f"{path}: its contents differ from their SHA-256; build the index again")
    return manifest


def _digest(manifest: dict[str, Any]) -> str:
    """Return the SHA-256 of a manifest's contents, its own line excepted."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _is_listed(name: str, entry: object) -> bool:
    """Tell whether a manifest's line is one: a plain file name, a size and a checksum."""
    return (
        Path(name).name == name
        and isinstance(entry, dict)
        and isinstance(entry.get("bytes"), int)
        and isinstance(entry.get("sha256"), str)
    )


def _map(path: Path) -> Array:
    if path.suffix == ".npy":
        try:
            # A plain array over the same pages: slices of a memmap object are slow.
            return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        except (ValueError, EOFError, OSError) as err:
            raise DataError(f"{path} is no array file: {err}") from err
    if path.stat().st_size == 0:
        return np.zeros(0, np.uint8)
    return np.asarray(np.memmap(path, np.uint8, "r"))


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class MemoryWriter:
    """Collects arrays and text columns in memory."""

    def __init__(self) -> None:
        self._arrays: dict[str, Array] = {}
        self._texts: dict[str, tuple[BytesIO, TextWriter]] = {}

    def add(self, name: str, values: Array) -> None:
        """Keep an array."""
        self._arrays[name] = values

    def empty(self, name: str, size: int, dtype: npt.DTypeLike) -> Array:
        """Return a new array to be filled in place."""
        self._arrays[name] = np.zeros(size, dtype)
        return self._arrays[name]

    def texts(self, name: str) -> TextWriter:
        """Start a text column."""
        stream = BytesIO()
        writer = TextWriter(stream)
        self._texts[name] = (stream, writer)
        return writer

    def scratch(self) -> BinaryIO:
        """Return a file for intermediate results."""
        return BytesIO()

    def finish(self, manifest: dict[str, Any]) -> Store:
        """Return the store; the writer must not be used any more."""
        for name, (stream, writer) in self._texts.items():
            self._arrays[name + ".bin"] = np.frombuffer(stream.getvalue(), np.uint8)
            self._arrays[name + ".offsets"] = np.asarray(writer.offsets, np.int64)
        return Store(self._arrays, {"format": FORMAT, "version": VERSION, **manifest})


class FolderWriter:
    """Writes arrays and text columns into a folder that appears when it is finished.

    Use it as a context manager: leaving it before `finish` removes what was written. What a killed
    process left is removed by the next one that writes the same folder.
    """

    def __init__(self, folder: Path) -> None:
        """Begin a folder.

        Args:
            folder: Where the finished folder goes; must not exist, or be empty.

        Raises:
            DataError: It exists and holds something, or cannot be made.
        """
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise DataError(f"{folder} exists already; remove it or choose another folder")
        self._folder = folder
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            prefix = f".{folder.name}.unfinished-"
            for leftover in folder.parent.glob(f"{glob.escape(prefix)}*"):
                _remove_abandoned(leftover)
            self._work, self._lock = _work_folder(folder.parent, prefix)
        except OSError as err:
            raise DataError(f"cannot write to {folder.parent}: {err}") from err
        self._texts: dict[str, tuple[BinaryIO, TextWriter]] = {}

    def __enter__(self) -> FolderWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        for stream, _ in self._texts.values():
            stream.close()
        shutil.rmtree(self._work, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def add(self, name: str, values: Array) -> None:
        """Write an array."""
        np.save(self._work / f"{name}.npy", values, allow_pickle=False)

    def empty(self, name: str, size: int, dtype: npt.DTypeLike) -> Array:
        """Return a new array that is mapped from its file, to be filled in place."""
        if size == 0:
            self.add(name, np.zeros(0, dtype))
            return np.zeros(0, dtype)
        return np.lib.format.open_memmap(
            self._work / f"{name}.npy", mode="w+", dtype=np.dtype(dtype), shape=(size,)
        )

    def texts(self, name: str) -> TextWriter:
        """Start a text column."""
        stream = (self._work / f"{name}.bin").open("wb", buffering=1 << 20)
        writer = TextWriter(stream)
        self._texts[name] = (stream, writer)
        return writer

    def scratch(self) -> BinaryIO:
        """Return a file for intermediate results; it has no name and vanishes when closed."""
        return tempfile.TemporaryFile(dir=self._work)

    def finish(self, manifest: dict[str, Any]) -> None:
        """Write the manifest and give the folder its name.

        Raises:
            DataError: The name was taken by another process meanwhile.
        """
        for name, (stream, writer) in self._texts.items():
            stream.close()
            self.add(name + ".offsets", np.asarray(writer.offsets, np.int64))
        names = sorted(path.name for path in self._work.iterdir())
        listed = {
            name: {
                "bytes": (self._work / name).stat().st_size,
                "sha256": _sha256(self._work / name),
            }
            for name in names
        }
        whole = {"format": FORMAT, "version": VERSION, **manifest, "files": listed}
        text = json.dumps({**whole, "sha256": _digest(whole)}, indent=1)
        for name in names:
            _sync(self._work / name)
        (self._work / MANIFEST).write_text(text + "\n", "utf-8")
        _sync(self._work / MANIFEST)
        self._work.chmod(0o755)
        try:
            self._work.replace(self._folder)
        except OSError as err:
            raise DataError(f"cannot give {self._folder} its name: {err.strerror or err}") from err


def _work_folder(parent: Path, prefix: str) -> tuple[Path, int | None]:
    """Make a folder and return it with the lock that says that it is in use."""
    while True:
        work = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        lock = _lock(work, wait=True)
        if work.exists():
            return work, lock
        # Another process took it for abandoned before it was locked.
        if lock is not None:
            os.close(lock)


def _remove_abandoned(folder: Path) -> None:
    """Remove a folder whose process was killed, which leaves no lock behind."""
    lock = _lock(folder, wait=False)
    if lock is not None:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _lock(folder: Path, *, wait: bool) -> int | None:
    """Return a descriptor that locks `folder`; None if that cannot be had."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        return None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


Writer = MemoryWriter | FolderWriter
