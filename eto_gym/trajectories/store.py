"""Append-only JSONL files that survive a kill at any byte."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from eto_gym.errors import DataError
from eto_gym.trajectories.lines import (
    EncodedTrajectory,
    PlayedTrajectory,
    check_seal,
    json_line,
    seal,
)
from eto_gym.trajectories.record import Trajectory

logger = logging.getLogger(__name__)


class JsonlFile:
    """An append-only file of one JSON value per line, with one writer at a time.

    A record counts from the moment it is whole on disk: the last one may lack its newline, as files
    of other programs do, and the next append adds it. A write that was cut short leaves a torn last
    line: reading ignores it, and the next append removes it first. A write that fails (a full disk)
    is undone before the error is raised, so the file never holds half a record.
    """

    def __init__(self, path: str | Path) -> None:
        """Name the file; it is created, with its folders, on the first `append`."""
        self.path = Path(path)
        self._fd: int | None = None
        self.corrupt_lines: list[int] = []
        """Line numbers (from 1) that the last non-strict `read` skipped."""

    def append(self, value: Any) -> None:
        """Write one JSON value as a line of its own.

        Raises:
            OSError: The line could not be written whole; the file is as it was before.
        """
        self._write(json_line(value))

    def _write(self, data: bytes) -> None:
        """Write a line, or nothing."""
        fd = self._open()
        start = os.fstat(fd).st_size
        written = 0
        try:
            while written < len(data):
                written += os.write(fd, data[written:])
        except BaseException:
            if written:
                os.ftruncate(fd, start)
            raise

    def read(self, *, strict: bool = False) -> Iterator[Any]:
        """Iterate over the values in order; a missing file holds none.

        Args:
            strict: Raise on a corrupt line. Otherwise (the default) it is skipped, logged with its
                number, and listed in `corrupt_lines`.

        Raises:
            DataError: A line is not JSON and `strict` is set.
        """
        return (value for _, value in self.numbered(strict=strict))

    def numbered(
        self, *, strict: bool = False, damaged: list[tuple[int, str]] | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Iterate over the line numbers (from 1) and values, as `read` does over the values.

        Args:
            strict: As in `read`.
            damaged: Takes number and reason of every line that cannot be read, a torn last one
                included; the log then says nothing of them.

        Raises:
            DataError: A line cannot be read and `strict` is set.
        """
        self.corrupt_lines = []
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                if not line.endswith(b"\n"):
                    if not _is_whole(line):
                        if damaged is not None:
                            damaged.append((number, "the last line is cut off"))
                        logger.debug("%s:%d: ignoring a torn last line", self.path, number)
                        return
                    line += b"\n"
                try:
                    value = self._parse(line)
                except (ValueError, RecursionError, DataError) as err:
                    if damaged is None or strict:
                        self._corrupt(number, err, strict=strict)
                    else:
                        damaged.append((number, str(err)))
                    continue
                yield number, value

    def _parse(self, line: bytes) -> Any:
        return _value(line)

    def sync(self) -> None:
        """Force what was appended to the disk, so that it survives a power cut too."""
        if self._fd is not None:
            os.fsync(self._fd)

    def close(self) -> None:
        """Sync and close; appending again reopens the file."""
        if self._fd is not None:
            self.sync()
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> Self:
        """Use as a context manager that closes the file."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()

    def _corrupt(self, number: int, err: Exception, *, strict: bool) -> None:
        if strict:
            raise DataError(f"{self.path}:{number}: {err}") from err
        logger.warning("%s:%d: skipping a corrupt line (%s)", self.path, number, err)
        self.corrupt_lines.append(number)

    def _open(self) -> int:
        if self._fd is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            self._end_last_line(self._fd)
        return self._fd

    @staticmethod
    def _end_last_line(fd: int) -> None:
        """End a whole last line, and remove a torn one."""
        end = os.fstat(fd).st_size
        block = 1 << 16
        position = end
        while position > 0:
            start = max(0, position - block)
            chunk = os.pread(fd, position - start, start)
            newline = chunk.rfind(b"\n")
            if newline >= 0:
                position = start + newline + 1
                break
            position = start
        if position == end:
            return
        if _is_whole(os.pread(fd, end - position, position)):
            os.write(fd, b"\n")
        else:
            os.ftruncate(fd, position)


def _is_whole(line: bytes) -> bool:
    """Whether a line without a line end holds all of a value.

    Only of an object, a list or a text one can tell: they close, while 12 may be the start of 123.
    """
    try:
        value = _value(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict | list | str)


def _value(line: bytes) -> Any:
    # `loads` of bytes would guess UTF-16, which lines of a file in it partly are.
    return json.loads(line.decode("utf-8-sig"))


class TrajectoryStore(JsonlFile):
    """A `JsonlFile` of trajectories, each with a digest, so that a damaged one is not believed.

    Example:
        >>> import tempfile
        >>> from eto_gym.trajectories import Trajectory, TrajectoryStore
        >>> folder = tempfile.TemporaryDirectory()
        >>> with TrajectoryStore(f"{folder.name}/t.jsonl") as store:
        ...     store.add(Trajectory("t0", "toy", (), (), "terminated", 1.0, True))
        ...     [trajectory.task_id for trajectory in store.load()]
        ['t0']
        >>> folder.cleanup()
    """

    def add(self, trajectory: PlayedTrajectory) -> None:
        """Append one trajectory."""
        if isinstance(trajectory, EncodedTrajectory):
            self._write(trajectory.line)
        else:
            self._write(seal(json_line(trajectory.to_json())))

    def load(self, *, strict: bool = False) -> list[Trajectory]:
        """Return all trajectories in the order of writing.

        Args:
            strict: Raise `DataError` on a line that is no trajectory, or not the one whose digest
                it bears; otherwise it is skipped,
                logged and listed in `corrupt_lines`.
        """
        loaded = []
        for number, value in self.numbered(strict=strict):
            try:
                loaded.append(Trajectory.from_json(value))
            except DataError as err:
                self._corrupt(number, err, strict=strict)
        return loaded

    def _parse(self, line: bytes) -> Any:
        value = super()._parse(line)
        check_seal(value, line)
        return value
