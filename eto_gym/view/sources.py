"""What a viewer is given: files of trajectories or pairs, and run folders with their stages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eto_gym.errors import DataError
from eto_gym.trajectories.numbers import is_number
from eto_gym.view.reading import Kind, kind_of, may_hold_records

_SKIPPED_FOLDERS = {"model", "model-untrained", "checkpoints"}


@dataclass(frozen=True)
class Source:
    """One file.

    Attributes:
        path: The file.
        name: What the viewer calls it; unique among the sources of a page.
        kind: What it holds.
    """

    path: Path
    name: str
    kind: Kind


@dataclass(frozen=True)
class Run:
    """A run folder.

    Attributes:
        name: What the viewer calls it.
        report: Its `report.json`; empty while the run goes on.
        stages: Name, seconds and whether it is finished, in order.
        curves: For each training: its stage and the entries of its metrics.
    """

    name: str
    report: dict[str, Any]
    stages: list[dict[str, Any]]
    curves: list[dict[str, Any]]


@dataclass
class Found:
    """Everything that was found under the given paths."""

    sources: list[Source] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    """Files of folders that cannot be read, each with the reason."""


def find(paths: Sequence[Path]) -> Found:
    """Look through files and folders.

    Raises:
        DataError: A path does not exist, a file that was named holds neither trajectories nor
            pairs, or nothing was found.
    """
    found = Found()
    seen: set[Path] = set()
    for path in paths:
        if path.is_dir():
            _folder(path, found, seen)
        elif path.is_file():
            kind = kind_of(path)
            if kind is None:
                raise DataError(
                    f"{path} holds neither trajectories nor pairs: expected them as JSONL or as a "
                    "JSON list"
                )
            found.sources.append(Source(path, str(path), kind))
        else:
            raise DataError(f"there is no file or folder {path}")
    if not found.sources and not found.runs:
        refused = "".join(f"; {reason}" for reason in found.refused)
        raise DataError(
            f"nothing to show in {', '.join(map(str, paths))}: expected files of trajectories or "
            f"pairs, or run folders{refused}"
        )
    unique = {source.path.resolve(): source for source in found.sources}
    found.sources = _short_names(list(unique.values()))
    return found


def _first_time(folder: Path, seen: set[Path]) -> bool:
    """Note a folder; links may lead to one again, or in a circle."""
    place = folder.resolve()
    if place in seen:
        return False
    seen.add(place)
    return True


def _folder(folder: Path, found: Found, seen: set[Path]) -> None:
    if not _first_time(folder, seen):
        return
    if (folder / "stages").is_dir():
        _run_folder(folder, found)
        return
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if path.name not in _SKIPPED_FOLDERS and not path.name.startswith("."):
                _folder(path, found, seen)
        else:
            _file(path, str(path), found)


def _file(path: Path, name: str, found: Found) -> None:
    """Take a file of a folder, if it holds something to show."""
    if not path.is_file():  # a pipe, say, or a link that leads nowhere
        return
    try:
        kind = kind_of(path) if may_hold_records(path) else None
    except DataError as err:
        found.refused.append(str(err))
        return
    if kind is not None:
        found.sources.append(Source(path, name, kind))


def _run_folder(folder: Path, found: Found) -> None:
    """Take a run folder: the stages of its report, and those that were begun after it."""
    report = _report(folder / "report.json")
    stages = sorted((s for s in (folder / "stages").iterdir() if s.is_dir()), key=_begun)
    if keys := [str(stage.get("key")) for stage in report.get("stages", [])]:
        ended = (folder / "report.json").stat().st_mtime
        order = {key: i for i, key in enumerate(keys)}
        stages = [s for s in stages if _key(s) in order or _begun(s) > ended]
        stages.sort(key=lambda s: order.get(_key(s), len(order)))
    told, curves = [], []
    for stage in stages:
        finished = _json_object(stage / "finished.json")
        name = stage.name.rpartition("-")[0]
        seconds = finished.get("seconds")
        told.append(
            {
                "name": name,
                "seconds": seconds if is_number(seconds) else None,
                "finished": bool(finished),
            }
        )
        for path in sorted(stage.glob("*.json*")):
            _file(path, f"{folder}/{name}", found)
        for path in sorted(stage.glob("*/training.json")):
            training = _json_object(path)
            if metrics := _objects(training.get("metrics")):
                curves.append(
                    {"stage": name, "method": training.get("method", ""), "metrics": metrics}
                )
    found.runs.append(Run(str(folder), report, told, curves))


def _report(path: Path) -> dict[str, Any]:
    """Return a run's report, without what is not of the form that the page expects."""
    report = _json_object(path)
    for name in ("stages", "policies"):
        if name in report:
            report[name] = _objects(report[name])
    return report


def _objects(value: Any) -> list[dict[str, Any]]:
    """Return the objects of a list; none where it is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _key(stage: Path) -> str:
    return stage.name.rpartition("-")[2]


def _begun(stage: Path) -> float:
    settings = stage / "settings.json"
    return settings.stat().st_mtime if settings.exists() else stage.stat().st_mtime


def watched(paths: Sequence[Path], seen: set[Path] | None = None) -> Iterator[Path]:
    """Yield every file that a page of these paths may depend on, in an order that stays."""
    seen = set() if seen is None else seen
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        if not _first_time(path, seen):
            continue
        for item in sorted(path.iterdir()):
            if item.is_dir():
                if not item.name.startswith("."):
                    yield from watched([item], seen)
            elif item.suffix in (".json", ".jsonl"):
                yield item


def _json_object(path: Path) -> dict[str, Any]:
    """Return the object in a file; an empty one where there is no such file, or it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _short_names(sources: list[Source]) -> list[Source]:
    """Leave out the folders that all names share, and make the names unique."""
    parts = [Path(source.name).with_suffix("").parts for source in sources]
    shared = 0
    while (
        len(parts) > 1
        and all(len(p) > shared + 1 for p in parts)
        and (len({p[shared] for p in parts}) == 1)
    ):
        shared += 1
    if len(parts) == 1:
        shared = max(0, len(parts[0]) - 1)
    names = ["/".join(words[shared:]) for words in parts]
    taken: set[str] = set()
    counts: dict[str, int] = {}
    named = []
    for source, word in zip(sources, names, strict=True):
        name = word
        while name in taken:
            counts[word] = counts.get(word, 1) + 1
            name = f"{word} ({counts[word]})"
        taken.add(name)
        named.append(Source(source.path, name, source.kind))
    return named
