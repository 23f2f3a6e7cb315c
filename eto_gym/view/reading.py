"""The records of a file for the viewer: those of a run stream by, and none is lost in silence."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias

from eto_gym.errors import DataError
from eto_gym.trajectories.demonstrations import CONVERSATION_KEYS
from eto_gym.trajectories.lines import check_seal
from eto_gym.trajectories.other_forms import is_adp, is_alpaca
from eto_gym.trajectories.preferences import is_pair
from eto_gym.trajectories.store import TrajectoryStore
from eto_gym.trajectories.values import RECORD_KEYS, read_values

Kind = Literal["episodes", "pairs"]
Unread: TypeAlias = list[tuple[int, str]]
"""Number and reason of every record or line that could not be read."""

_LOOKED_AT = 20
"""Records by which the kind of a file is told."""


def kind_of(path: Path) -> Kind | None:
    """Tell by its first records what a file holds; None if that is nothing to show.

    Raises:
        DataError: It is empty, or neither JSON nor JSON Lines.
    """
    for _, record in itertools.islice(records(path, []), _LOOKED_AT):
        if is_pair(record):
            return "pairs"
        if not isinstance(record, dict):
            continue
        if {*CONVERSATION_KEYS} & record.keys() or is_adp(record) or is_alpaca(record):
            return "episodes"
    return None


def records(path: Path, unread: Unread) -> Iterator[tuple[int, Any]]:
    """Yield the numbers (from 1) and the records of a file.

    A file of one record per line, as runs write it, is never held as a whole; any other is.

    Args:
        path: The file.
        unread: Takes what is no JSON, or not what its digest was made of.

    Raises:
        DataError: The file is empty, or neither JSON nor JSON Lines.
    """
    if _streams(path):
        yield from TrajectoryStore(path).numbered(damaged=unread)
        return
    found = read_values(path)
    unread += found.damaged
    for number, item in found.values:
        try:
            check_seal(item)
        except DataError as err:
            unread.append((number, str(err)))
            continue
        yield number, item


def may_hold_records(path: Path) -> bool:
    """Tell by its name and its beginning whether a file of a folder is to be looked into."""
    if path.suffix == ".jsonl":
        return path.stat().st_size > 0  # a run that has just begun
    if path.suffix != ".json":
        return False
    with path.open("rb") as file:
        start = file.read(256).removeprefix(b"\xef\xbb\xbf").lstrip()
    return start.startswith(b"[") or _streams(path)


def _streams(path: Path) -> bool:
    """Tell whether the first line of a file is a record that stands there as a whole."""
    with path.open("rb") as file:
        if not file.read(256).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
            return False
        file.seek(0)
        line = next((line for line in file if line.strip()), b"")
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and bool(RECORD_KEYS & value.keys())
