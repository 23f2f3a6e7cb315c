"""Atomic file writes: a file is whole or not there."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from eto_gym.errors import DataError, EtoGymError


def expanded(path: str | Path) -> Path:
    """Return a path with a user's home folder in place of `~` or `~NAME`.

    Raises:
        DataError: There is no such user, or this one has no home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as err:
        raise DataError(f"cannot tell which folder {path} is: {err}") from err


@contextlib.contextmanager
def replacing(path: str | Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the same folder; its file takes the place of `path` at the end.

    A reader finds the old file or the new one. With `durable` the new one is on disk before it
    takes its place, so a machine that loses its power keeps one of them too; without, many files
    are written faster. If the block raises, `path` stays as it was.

    Raises:
        IsADirectoryError: `path` is a folder.
    """
    path = Path(path)
    if path.is_dir():  # said before the block has worked for nothing, and of its name
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
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


@contextlib.contextmanager
def locked(path: str | Path) -> Iterator[bool | None]:
    """Hold the lock of a file or folder that is there.

    It ends with this process, however that ends.

    Yields:
        Whether it was to be had: False where another process holds it, or another part of this
        one; None on a file system without locks, or a system without them.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        held: bool | None
        try:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        except BlockingIOError:
            held = False
        except (ImportError, OSError):
            held = None
        yield held
    finally:
        os.close(handle)


@contextlib.contextmanager
def owned(path: str | Path) -> Iterator[None]:
    """Keep other runs from writing to a file, or in a folder, that is there.

    It holds among those that ask for it. Where there are no locks, everyone is let in.

    Raises:
        EtoGymError: Another run has it.
    """
    with locked(path) as held:
        if held is False:
            raise EtoGymError(f"another run is writing to {path}")
        yield


def write_text(path: str | Path, text: str, *, durable: bool = True) -> None:
    """Write a UTF-8 text file atomically; folders above it are made."""
    with replacing(path, durable=durable) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as strict JSON atomically; folders above it are made.

    A number that JSON does not know (NaN, an infinite bound) is written as null. Characters that
    are not ASCII stand as they are, unless one is half of a character: then all are escaped.
    """
    value = strict(value)
    with replacing(path) as partial:
        try:
            _dump(value, partial, escaped=False)
        except UnicodeEncodeError:
            _dump(value, partial, escaped=True)


def _dump(value: Any, path: Path, *, escaped: bool) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=escaped, allow_nan=False)
        file.write("\n")


def read_object(path: Path, *, remedy: str) -> dict[str, Any]:
    """Read a JSON object that a run has written.

    Args:
        path: The file.
        remedy: What to do where it is damaged; follows "PATH is damaged (why): ".

    Raises:
        DataError: It is no JSON object.
        FileNotFoundError: There is no such file.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as err:
        raise DataError(f"{path} is damaged ({err}): {remedy}") from err
    if not isinstance(value, dict):
        raise DataError(f"{path} is damaged (no JSON object): {remedy}")
    return value


DIGESTS_FILE = "files.sha256"
"""Of a folder with a finished model; `sha256sum -c files.sha256` reads it, too."""

_HASHED_UP_TO = 1 << 28
"""Bytes of a file whose content is looked at; of a larger one the size is."""


def write_digests(path: Path, *, leave_out: Collection[str] = (), deep: bool = True) -> None:
    """Write the SHA-256 of every file in the folder of `path` to `path`, as `sha256sum` does.

    A large file is written down with its size instead, which takes no time.

    Args:
        path: The file to write.
        leave_out: Names of files that may change.
        deep: Whether files in folders of that folder are written down, too.
    """
    folder = path.parent
    found = folder.rglob("*") if deep else folder.glob("*")
    files = sorted(file for file in found if file.is_file() and file != path)
    lines = [
        f"{_state(file)}  {file.relative_to(folder).as_posix()}\n"
        for file in files
        if file.name not in leave_out
    ]
    with replacing(path) as partial:
        partial.write_text("".join(lines), encoding="utf-8")


def changed_since(path: Path) -> str | None:
    """Return the first file that is not as `write_digests` found it, or None.

    A folder without digests, or with none in their file, as older versions wrote it, is taken for
    whole.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return path.name
    for line in lines:
        state, _, name = line.partition("  ")
        if not name or "\0" in name:
            return path.name
        try:
            if _state(path.parent / name) != state:
                return name
        except OSError:
            return name
    return None


def _state(file: Path) -> str:
    size = file.stat().st_size
    if size > _HASHED_UP_TO:
        return f"size:{size}"
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def strict_json(value: Any) -> str:
    """Return a value as JSON that every reader takes: null in place of what JSON does not know."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(strict(value), allow_nan=False)


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
