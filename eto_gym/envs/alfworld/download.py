"""Downloads the official ALFWorld games: addresses, checksums and what to unpack, in one place."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from eto_gym.downloads import checked_sha256, data_home, extract_zip, fetch
from eto_gym.envs.alfworld.games import OFFICIAL_SPLITS, OfficialGames
from eto_gym.envs.alfworld.manifest import GAME_FILE, TRAJECTORY_FILE
from eto_gym.errors import DataError
from eto_gym.files import expanded

RELEASES = "https://github.com/alfworld/alfworld/releases/download"

Games = Literal["put", "move"]


@dataclass(frozen=True, slots=True)
class Archive:
    """One file of the official release.

    Attributes:
        path: Below the address of the releases.
        sha256: Checksum, or None to accept and record what comes first.
        size: Bytes, for people to know what they start.
    """

    path: str
    sha256: str | None
    size: int

    @property
    def name(self) -> str:
        """The file's name."""
        return PurePosixPath(self.path).name


# ALFWorld publishes no checksums. These were recorded by several unrelated public projects that
# downloaded the same files (for the "put" games by one), and have not been checked against the
# network here; `--sha256 NAME=any` downloads without them.
TRAJECTORIES = Archive(
    path="0.2.2/json_2.1.1_json.zip",
    sha256="25171f16e20ad7b048c47275c45b0babf3aa1cbab29cec97387922350a9844bc",
    size=72_018_818,
)
GAMES: dict[Games, Archive] = {
    "put": Archive(
        path="0.2.2/json_2.1.1_tw-pddl.zip",
        sha256="d376c4bbb097c068528a2a9805e358e4cd14bc75c4d68a24e5141aebd234ef67",
        size=45_059_629,
    ),
    "move": Archive(
        path="0.4.2/json_2.1.3_tw-pddl.zip",
        sha256="5df77ea759f2211a4106082839ddbbb790f1ba4e7d097ed732cf453f72aa36cf",
        size=36_507_267,
    ),
}

_FINISHED = "eto-gym-download.json"


def default_folder(games: Games) -> Path:
    """Return where games go when no folder is named: each wording has its own."""
    return data_home() / ("alfworld" if games == "put" else "alfworld-move")


def download(
    folder: Path,
    *,
    games: Games = "put",
    releases: str = RELEASES,
    sha256: dict[str, str | None] | None = None,
    keep_archives: bool = False,
    progress: bool = True,
) -> dict[str, int]:
    """Download and unpack the official games; return how many are playable per split.

    Args:
        folder: Gets `json_2.1.1/<split>/...`; what a killed call left there is used.
        games: "put" (the default) are the games of the ETO era, which say `put X in/on Y`; "move"
            those of alfworld 0.4.2, which say `move X to Y`.
        releases: Address of the releases or of a mirror with the same files.
        sha256: Checksums (None: accept and record) by the archive's name, to replace ours.
        keep_archives: Keep the zip files.
        progress: Show progress bars on standard error.

    Raises:
        DataError: Something cannot be fetched, verified or unpacked.
    """
    archives = [GAMES[games], TRAJECTORIES]
    known = {archive.name for archive in archives}
    given = sha256 or {}
    if unknown := sorted(set(given) - known):
        raise DataError(f"expected checksums for {sorted(known)}, got one for {unknown}")
    archives = [
        replace(archive, sha256=given[archive.name]) if archive.name in given else archive
        for archive in archives
    ]
    finished = folder / _FINISHED
    if _is_finished(finished, archives):
        return _count_games(folder)

    store = folder / "archives"
    sums = {}
    for archive in archives:
        fetched = fetch(
            f"{releases.rstrip('/')}/{archive.path}",
            store / archive.name,
            sha256=archive.sha256,
            progress=progress,
        )
        sums[archive.name] = fetched.sha256
    extract_zip(store / archives[0].name, folder, keep=_is_game, progress=progress)
    extract_zip(
        store / archives[1].name,
        folder,
        # The archive holds 1.7 GB, half of it for trials without a game.
        keep=lambda name: (
            name.endswith(f"/{TRAJECTORY_FILE}") and (folder / name).with_name(GAME_FILE).exists()
        ),
        progress=progress,
    )
    counts = _count_games(folder)
    temporary = finished.with_name(f"{finished.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps({"archives": sums, "games": counts}, indent=1), "utf-8")
    temporary.replace(finished)
    if not keep_archives:
        for archive in archives:
            (store / archive.name).unlink()
    return counts


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `eto-gym data download alfworld`."""
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help=f"folder for the data (default: {default_folder('put')}, or with --games move "
        f"{default_folder('move')})",
    )
    parser.add_argument(
        "--games",
        choices=sorted(GAMES),
        default="put",
        help="wording of the games: that of published scores, or that of alfworld 0.4.2 "
        "(default: put)",
    )
    parser.add_argument(
        "--sha256",
        action="append",
        default=[],
        metavar="NAME=SUM",
        help="checksum that replaces the known one of an archive; NAME=any accepts what comes and "
        "records its checksum; repeatable",
    )
    parser.add_argument(
        "--mirror",
        default=RELEASES,
        metavar="URL",
        help="address of the releases (default: %(default)s)",
    )
    parser.add_argument("--keep-archives", action="store_true", help="keep the zip files")


def run(args: argparse.Namespace) -> str:
    """Download as the options say and return what to tell the user."""
    sums: dict[str, str | None] = {}
    for item in args.sha256:
        name, equals, value = item.partition("=")
        if not equals:
            raise DataError(f"expected --sha256 NAME=SUM, got {item!r}")
        sums[name] = None if value == "any" else checked_sha256(value)
    folder = expanded(args.out or default_folder(args.games))
    counts = download(
        folder,
        games=args.games,
        releases=args.mirror,
        sha256=sums,
        keep_archives=args.keep_archives,
    )
    listed = ", ".join(f"{split} {count:,}" for split, count in counts.items())
    return f'Playable games: {listed}.\ngym.make("ETO/ALFWorld-v0", data="{folder}")'


def _is_game(name: str) -> bool:
    return name.endswith(f"/{GAME_FILE}")


def _is_finished(marker: Path, archives: list[Archive]) -> bool:
    """Tell whether an earlier call completed with the same archives."""
    try:
        sums = json.loads(marker.read_text(encoding="utf-8"))["archives"]
        return all(
            archive.name in sums and archive.sha256 in {None, sums[archive.name]}
            for archive in archives
        )
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return False


def _count_games(folder: Path) -> dict[str, int]:
    return {split: len(OfficialGames(folder, split).task_set) for split in OFFICIAL_SPLITS}
