"""What a viewer is given: files of trajectories or pairs, and run folders with their stages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from eto_gym.errors import DataError
from eto_gym.trajectories.lines import check_seal
from eto_gym.trajectories.store import TrajectoryStore

Kind = Literal["episodes", "pairs"]

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


def find(paths: Sequence[Path]) -> Found:
    """Look through files and folders.

    Raises:
        DataError: A path does not exist, a file that was named holds neither trajectories nor
            pairs, or nothing was found.
    """
    found = Found()
    for path in paths:
        if path.is_dir():
            _folder(path, found)
        elif path.is_file():
            kind = kind_of(path)
            if kind is None:
                raise DataError(
                    f"{path} holds neither trajectories nor pairs: expected JSONL or a JSON list"
                )
            found.sources.append(Source(path, str(path), kind))
        else:
            raise DataError(f"there is no file or folder {path}")
    if not found.sources and not found.runs:
        raise DataError(
            f"nothing to show in {', '.join(map(str, paths))}: expected files of trajectories or "
            "pairs, or run folders"
        )
    unique = {source.path.resolve(): source for source in found.sources}
    found.sources = _short_names(list(unique.values()))
    return found


def _folder(folder: Path, found: Found) -> None:
    if (folder / "stages").is_dir():
        _run_folder(folder, found)
        return
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if path.name not in _SKIPPED_FOLDERS and not path.name.startswith("."):
                _folder(path, found)
        elif (kind := kind_of(path)) is not None:
            found.sources.append(Source(path, str(path), kind))


def _run_folder(folder: Path, found: Found) -> None:
    """Take a run folder: the stages of its report, and those that were begun after it."""
    report = _json_object(folder / "report.json")
    stages = sorted((s for s in (folder / "stages").iterdir() if s.is_dir()), key=_begun)
    if keys := [stage.get("key") for stage in report.get("stages", [])]:
        ended = (folder / "report.json").stat().st_mtime
        order = {key: i for i, key in enumerate(keys)}
        stages = [s for s in stages if _key(s) in order or _begun(s) > ended]
        stages.sort(key=lambda s: order.get(_key(s), len(order)))
    told, curves = [], []
    for stage in stages:
        finished = _json_object(stage / "finished.json")
        name = stage.name.rpartition("-")[0]
        told.append({"name": name, "seconds": finished.get("seconds"), "finished": bool(finished)})
        for path in sorted(stage.glob("*.json*")):
            if (kind := kind_of(path)) is not None:
                found.sources.append(Source(path, f"{folder}/{name}", kind))
        for path in sorted(stage.glob("*/training.json")):
            training = _json_object(path)
            metrics = training.get("metrics")
            if isinstance(metrics, list) and metrics:
                curves.append(
                    {"stage": name, "method": training.get("method", ""), "metrics": metrics}
                )
    found.runs.append(Run(str(folder), report, told, curves))


def _key(stage: Path) -> str:
    return stage.name.rpartition("-")[2]


def _begun(stage: Path) -> float:
    settings = stage / "settings.json"
    return settings.stat().st_mtime if settings.exists() else stage.stat().st_mtime


def watched(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield every file that a page of these paths may depend on, in an order that stays."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for item in sorted(path.iterdir()):
            if item.is_dir():
                if not item.name.startswith("."):
                    yield from watched([item])
            elif item.suffix in (".json", ".jsonl"):
                yield item


def kind_of(path: Path) -> Kind | None:
    """Tell by its first record what a file holds; None if that is nothing to show."""
    if path.suffix not in (".jsonl", ".json"):
        return None
    for record in records(path):
        if isinstance(record, dict):
            sides = ({"chosen", "rejected"}, {"completion", "label"})
            if "prompt" in record and any(names <= set(record) for names in sides):
                return "pairs"
            if {"messages", "conversations"} & set(record):
                return "episodes"
        return None
    return None


def records(path: Path, skipped: list[int] | None = None) -> Iterator[Any]:
    """Yield the records of a file.

    The numbers of those that are no JSON, or not what their digest was made of, go into `skipped`.
    """
    if path.suffix == ".jsonl":
        lines = TrajectoryStore(path)
        yield from lines.read()
        if skipped is not None:
            skipped += lines.corrupt_lines
        return
    with path.open("rb") as file:
        if not file.read(256).lstrip().startswith(b"["):
            return
    try:
        items = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return
    for number, item in enumerate(items, start=1):
        try:
            check_seal(item)
        except DataError:
            if skipped is not None:
                skipped.append(number)
            continue
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
    taken: dict[str, int] = {}
    named = []
    for source, words in zip(sources, parts, strict=True):
        name = "/".join(words[shared:])
        taken[name] = taken.get(name, 0) + 1
        if taken[name] > 1:
            name = f"{name} ({taken[name]})"
        named.append(Source(source.path, name, source.kind))
    return named
