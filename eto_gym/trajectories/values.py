"""The JSON values of a file, told apart by what it holds: a list, lines, or an object around them.

Nothing is lost in silence: what a file holds is a value with its number, or a `Damaged` with its
number and the reason, or else the file is refused as a whole.
"""

from __future__ import annotations

import bisect
import functools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from eto_gym.errors import DataError
from eto_gym.trajectories.other_forms import is_adp
from eto_gym.trajectories.text_files import LINE_END, damaged_byte, read_text, split_lines

RECORD_KEYS = frozenset(
    {
        *("messages", "conversations", "conversation", "instruction"),
        *("prompt", "chosen", "rejected", "steps"),
    }
)
"""Keys of which a record has at least one, and an object around records none."""

_LINE_NAMES = (".jsonl", ".ndjson", ".jsonlines")
_BLANK = re.compile(r"[ \t\r\n]*")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+("?)|[\[\]{},]', re.DOTALL)
"""A mark of structure, or a text within quotes; the group is empty where it does not close."""

_BOUNDARY = re.compile(r'[}\]]\s*,\s*\{\s*"|\n')
"""What a text within quotes does not hold: where it does, a quote is missing before it."""


class Value(NamedTuple):
    """A JSON value, and its number from 1."""

    number: int
    value: Any


class Damaged(NamedTuple):
    """What should have been a value, and why it is none."""

    number: int
    reason: str


@dataclass(slots=True)
class Values:
    """What a file holds.

    Attributes:
        path: The file.
        unit: What the numbers count: lines, or records of a list.
        values: The values in order.
        damaged: What could not be read, in order.
        outside: Keys of an object around the records that were not read.
    """

    path: Path
    unit: Literal["line", "record"]
    values: list[Value] = field(default_factory=list)
    damaged: list[Damaged] = field(default_factory=list)
    outside: tuple[str, ...] = ()

    def place(self, number: int) -> str:
        """Name a value in a message."""
        return f"{self.path}:{number}" if self.unit == "line" else f"{self.path}: record {number}"


class _FaultError(ValueError):
    """JSON that cannot be read, and where."""

    def __init__(self, reason: str, position: int) -> None:
        super().__init__(reason)
        self.position = position


class _TwiceError(ValueError):
    """A key that an object has twice."""


def read_values(path: str | Path) -> Values:
    """Read a JSON list, JSON Lines, or an object with one list of records in it.

    The file's name does not matter where its content is plain. Encodings are those of
    `eto_gym.trajectories.text_files.read_text`. A last line without a line end counts.

    Raises:
        DataError: The file is missing, is empty, or holds nothing of the kind.
    """
    path = Path(path)
    text = read_text(path, lenient=True)
    start = _skip_blanks(text, 0)
    if start == len(text):
        raise DataError(f"{path} is empty")
    if text[start] not in "[{":
        return _lines(path, text, [])
    try:
        return _document(path, text, start)
    except _FaultError as err:
        reason = f"{_Places(text).name(err.position)}: {err}"
    return _lines(path, text, [reason])


# --- one document --------------------------------------------------------------------------------


def _document(path: Path, text: str, start: int) -> Values:
    """Read a list or an object that is the whole text, or values that follow each other.

    Raises:
        _FaultError: It is neither.
    """
    if text[start] == "[":
        found = Values(path, "record")
        end = _list(text, start, found)
        if _skip_blanks(text, end) != len(text):
            raise _FaultError("something follows the end of the list", end)
        return found
    value, end = _decode(text, start)
    rest = _skip_blanks(text, end)
    if rest == len(text):
        return _unwrapped(path, value)
    if text.find("\n", start, end) < 0 and text.find("\r", start, end) < 0:
        raise _FaultError("one value to a line", end)
    return _sequence(path, text, start)


def _list(text: str, start: int, found: Values) -> int:
    """Read a list into `found`, item by item; return where it ends.

    An item that is damaged within its brackets is noted, and those after it are read. From then on
    each is decoded as a text of its own: an error of `json` counts the lines of all its text.
    """
    places, apart = _Places(text), False
    position = _skip_blanks(text, start + 1)
    if text[position : position + 1] == "]":
        return position + 1
    number = 0
    while True:
        number += 1
        try:
            value, end = _decode_apart(text, position) if apart else _decode(text, position)
        except _FaultError as err:
            closed = _end_of_item(text, position)
            if closed is None or closed == position:
                raise _FaultError(f"record {number}: {err}", err.position) from err
            end, apart = closed, True
            found.damaged.append(Damaged(number, f"{places.name(err.position)}: {err}"))
        else:
            _note(found, number, value, text, position, end)
        position = _skip_blanks(text, end)
        mark = text[position : position + 1]
        if mark == "]":
            return position + 1
        if mark != ",":
            raise _FaultError(f"record {number}: expected a comma or the list's end", position)
        position = _skip_blanks(text, position + 1)


def _sequence(path: Path, text: str, start: int) -> Values:
    """Read objects that follow each other, each over several lines."""
    found = Values(path, "record")
    position, number = start, 0
    while position < len(text):
        number += 1
        value, end = _decode(text, position)
        _note(found, number, value, text, position, end)
        position = _skip_blanks(text, end)
    return found


def _unwrapped(path: Path, value: Any) -> Values:
    """Take an object for a record, or for what stands around a list of records."""
    filled = {key: item for key, item in value.items() if item is not None}
    if RECORD_KEYS & filled.keys() or is_adp(filled):
        return Values(path, "record", [Value(1, value)])
    lists = {key: item for key, item in filled.items() if isinstance(item, list)}
    if not lists and filled and _named_lines(path):
        return Values(path, "line", [Value(1, value)])
    if len(lists) != 1:
        told = ", ".join(sorted(map(repr, lists or filled))) or "nothing"
        what = f"{len(lists)} lists ({told})" if lists else f"an object of {told[:200]}"
        raise DataError(f"{path}: expected a list of records, got {what}")
    ((key, items),) = lists.items()
    values = [Value(number, item) for number, item in enumerate(items, start=1)]
    return Values(path, "record", values, outside=tuple(sorted(filled.keys() - {key})))


# --- lines ---------------------------------------------------------------------------------------


def _lines(path: Path, text: str, reasons: list[str]) -> Values:
    """Read one value from each line.

    Args:
        path: The file.
        text: What it holds.
        reasons: Why it is no document, for the error.

    Raises:
        DataError: It holds no lines of JSON either.
    """
    found = Values(path, "line")
    ended_by_comma = 0
    for number, line in enumerate(split_lines(text), start=1):
        start = _skip_blanks(line, 0)
        if start == len(line):
            continue
        try:
            value, end = _decode(line, start)
            if _skip_blanks(line, end) != len(line):
                ended_by_comma += line[end:].strip() == ","
                raise _FaultError("something follows the value", end)
        except _FaultError as err:
            found.damaged.append(Damaged(number, f"column {err.position + 1}: {err}"))
        else:
            _note(found, number, value, line, start, end)
    objects = sum(isinstance(item.value, dict) for item in found.values)
    lines_meant = _named_lines(path) and not ended_by_comma and not _is_list(text)
    if objects > ended_by_comma or lines_meant:
        return found
    reason = reasons[0] if reasons else f"line 1 begins with {text.strip()[:40]!r}"
    raise DataError(f"{path} is neither JSON nor JSON Lines: {reason}")


def _named_lines(path: Path) -> bool:
    return path.name.lower().removesuffix(".gz").endswith(_LINE_NAMES)


def _is_list(text: str) -> bool:
    return text.lstrip()[:1] == "[" and len(split_lines(text)) == 1


# --- parts of it ---------------------------------------------------------------------------------


def _hook(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _TwiceError(f"the key {twice!r:.60} stands twice in one object")
    return value


_read: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder(object_pairs_hook=_hook).raw_decode


def _decode(text: str, position: int) -> tuple[Any, int]:
    """Read one value.

    Raises:
        _FaultError: There is none.
    """
    try:
        return _read(text, position)
    except json.JSONDecodeError as err:
        raise _FaultError(err.msg[:1].lower() + err.msg[1:], err.pos) from err
    except RecursionError as err:
        raise _FaultError("nested too deeply", position) from err
    except ValueError as err:  # a key twice, a number of thousands of digits
        raise _FaultError(str(err).partition(";")[0], position) from err


def _decode_apart(text: str, position: int) -> tuple[Any, int]:
    """Read an item of a list, in time that its own length bounds.

    Raises:
        _FaultError: There is none.
    """
    closed = _end_of_item(text, position)
    if closed is None:
        return _decode(text, position)
    try:
        value, end = _decode(text[position:closed], 0)
    except _FaultError as err:
        raise _FaultError(str(err), position + err.position) from err
    return value, position + end


def _note(found: Values, number: int, value: Any, text: str, start: int, end: int) -> None:
    """Take in a value, unless its text holds bytes that are no text."""
    byte = None if text.isascii() else damaged_byte(text[start:end])
    if byte is None:
        found.values.append(Value(number, value))
    else:
        found.damaged.append(Damaged(number, f"the byte 0x{byte:02x} is no UTF-8"))


def _end_of_item(text: str, start: int) -> int | None:
    """Return where the brackets of an item of a list close; None where that is not certain."""
    depth = 0
    for token in _TOKEN.finditer(text, start):
        mark = token.group()
        if mark[0] == '"' and (not token[1] or _BOUNDARY.search(mark)):
            return None
        if mark in "[{":
            depth += 1
        elif mark in "]}":
            depth -= 1
            if depth < 0:
                return token.start()
        elif mark == "," and not depth:
            return token.start()
    return None


def _skip_blanks(text: str, position: int) -> int:
    found = _BLANK.match(text, position)
    assert found is not None
    return found.end()


class _Places:
    """Names the places of a text as people find them in an editor."""

    def __init__(self, text: str) -> None:
        self._text = text

    @functools.cached_property
    def _starts(self) -> list[int]:
        return [0, *(end.end() for end in LINE_END.finditer(self._text))]

    def name(self, position: int) -> str:
        line = bisect.bisect_right(self._starts, position)
        return f"line {line}, column {position - self._starts[line - 1] + 1}"
