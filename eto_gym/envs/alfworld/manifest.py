"""Lists the playable games of an official folder, and remembers the list.

Official folders hold thousands of large JSON files, of which about half are playable. Reading them
takes seconds to minutes, so the list is kept beside the data (or in the user's cache where the
folder cannot be written), together with a fingerprint of the files' names, sizes and times. A list
whose fingerprint no longer fits is made anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from eto_gym.downloads import data_home
from eto_gym.files import write_json

logger = logging.getLogger(__name__)

TASK_TYPES = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)
"""The six task types, in the official order."""

GAME_FILE = "game.tw-pddl"
TRAJECTORY_FILE = "traj_data.json"

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """The playable games of one split.

    Attributes:
        games: (id, task type), sorted by id. An id is `<task folder>/<trial folder>`.
        skipped: Why trials were left out -> how many.
    """

    games: tuple[tuple[str, str], ...]
    skipped: dict[str, int]


def load_manifest(split_folder: Path) -> Manifest:
    """List the playable games below `<split folder>/<task>/<trial>`, from the kept list if it fits.

    The filter is the official one, in its order: the trial has a `traj_data.json`; its path holds
    neither "movable" nor "Sliced"; its type is one of the six; it has a `game.tw-pddl`; that has a
    true `solvable`. Trials whose files cannot be read are left out too, with a warning.
    """
    trials = _find_trials(split_folder)
    fingerprint = _fingerprint(trials)
    places = _cache_files(split_folder)
    for place in places:
        manifest = _read(place, fingerprint)
        if manifest is not None:
            return manifest
    manifest = _build(split_folder, [trial for trial, *_ in trials])
    for place in places:
        if _write(place, fingerprint, manifest):
            break
    return manifest


def _find_trials(split_folder: Path) -> list[tuple[str, str, str]]:
    """Return (id, state of traj_data.json, state of game.tw-pddl) of all trials, sorted by id."""
    trials = []
    for task in _folders(split_folder):
        for trial in _folders(Path(task.path)):
            found = _state(f"{trial.path}/{TRAJECTORY_FILE}")
            if found:
                game = _state(f"{trial.path}/{GAME_FILE}")
                trials.append((f"{task.name}/{trial.name}", found, game))
    return sorted(trials)


def _folders(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return [entry for entry in entries if entry.is_dir()]


def _state(path: str) -> str:
    try:
        status = os.stat(path)  # noqa: PTH116 - thousands of calls, and pathlib costs as much again
    except FileNotFoundError:
        return ""
    return f"{status.st_size}:{status.st_mtime_ns}"


def _fingerprint(trials: list[tuple[str, str, str]]) -> str:
    digest = hashlib.sha256(f"manifest {_VERSION}\n".encode())
    for trial in trials:
        digest.update(("\0".join(trial) + "\n").encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _build(split_folder: Path, trials: list[str]) -> Manifest:
    games: list[tuple[str, str]] = []
    skipped: Counter[str] = Counter()
    # The bar shows only on a terminal, and only where there is something to wait for.
    for trial in tqdm(trials, desc=f"list {split_folder.name}", unit="game", disable=None, delay=2):
        reason, task_type = _judge(split_folder / trial, trial)
        if reason:
            skipped[reason] += 1
        else:
            games.append((trial, task_type))
    if skipped["unreadable"]:
        logger.warning("%d trials in %s cannot be read", skipped["unreadable"], split_folder)
    return Manifest(tuple(games), dict(sorted(skipped.items())))


def _judge(folder: Path, trial: str) -> tuple[str, str]:
    """Return (reason to leave a trial out, or nothing; its task type)."""
    if "movable" in trial or "Sliced" in trial:
        return "movable or sliced", ""
    try:
        task_type = json.loads((folder / TRAJECTORY_FILE).read_bytes())["task_type"]
        if task_type not in TASK_TYPES:
            return "other task type", ""
        if not (folder / GAME_FILE).exists():
            return "no game file", ""
        game = json.loads((folder / GAME_FILE).read_bytes())
        if "solvable" not in game:
            return "not checked for a solution", ""
        return ("", task_type) if game["solvable"] else ("unsolvable", "")
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as err:
        logger.warning("%s cannot be read: %r", folder, err)
        return "unreadable", ""


# --- the kept list -------------------------------------------------------------------------------


def _cache_files(split_folder: Path) -> list[Path]:
    """Return where the list may lie: beside the data, else in the user's cache."""
    place = hashlib.sha256(os.fsencode(split_folder.resolve())).hexdigest()[:16]
    return [
        split_folder.parent / f".eto-gym-manifest-{split_folder.name}.json",
        data_home() / "manifests" / f"alfworld-{split_folder.name}-{place}.json",
    ]


def _read(path: Path, fingerprint: str) -> Manifest | None:
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
        if data["fingerprint"] != fingerprint:
            return None
        games = tuple((str(task), str(kind)) for task, kind in data["games"])
        return Manifest(games, {str(k): int(v) for k, v in data["skipped"].items()})
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None


def _write(path: Path, fingerprint: str, manifest: Manifest) -> bool:
    data = {"fingerprint": fingerprint, "games": manifest.games, "skipped": manifest.skipped}
    try:
        write_json(path, data)
    except OSError as err:
        logger.debug("cannot keep the list of games in %s: %s", path, err)
        return False
    return True
