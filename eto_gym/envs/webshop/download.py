"""Download of the official product, attribute and goal files.

The authors publish them on Google Drive, without checksums: the checksum of the first download is
recorded beside each file, and later calls verify the file against it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

from eto_gym.downloads import data_home, fetch, filled
from eto_gym.errors import DataError
from eto_gym.files import expanded


class OfficialFile(NamedTuple):
    """One official file: its name, and its id on Google Drive."""

    name: str
    drive_id: str


class OfficialFiles(NamedTuple):
    """The three files that a catalog is built from."""

    products: OfficialFile
    attributes: OfficialFile
    goals: OfficialFile


_GOALS = OfficialFile("items_human_ins.json", "14Kb5SPBk_jfdLZ_CDBNitW98QLDlKR5O")

FULL = OfficialFiles(
    OfficialFile("items_shuffle.json", "1A2whVgOO0euk5O13n2iYDM0bQRkkRduB"),
    OfficialFile("items_ins_v2.json", "1s2j6NgHljiZzQNL3veZaAiyW_qDEgBNi"),
    _GOALS,
)
"""The full catalog of 1.18 million products, which ETO's task lists refer to."""

SMALL = OfficialFiles(
    OfficialFile("items_shuffle_1000.json", "1EgHdxQ_YxqIQlvvq5iKlCrkEKR6-j0Ib"),
    OfficialFile("items_ins_v2_1000.json", "1IduG0xl544V_A_jv3tHXC0kyFi7PnyBu"),
    _GOALS,
)
"""The first 1,000 products."""

ADDRESS = "https://drive.usercontent.google.com/download?id={id}&export=download&confirm=t"
"""Address of a file on Google Drive; `confirm=t` skips the page that warns of large files."""

PAGE = "https://drive.google.com/file/d/{id}/view"
"""Address at which a person can download the same file with a browser."""


class Downloaded(NamedTuple):
    """Where the files are."""

    products: Path
    attributes: Path
    goals: Path


def download(
    folder: str | Path | None = None,
    *,
    small: bool = False,
    address: str = ADDRESS,
    progress: bool = True,
) -> Downloaded:
    """Download what is missing of the official files, and verify what is there.

    Args:
        folder: Where the files go; by default `webshop` in `eto_gym.downloads.data_home()`.
        small: Take the 1,000-product variant (5 MB) instead of the full one (5 GB).
        address: Where the files are; `{id}` stands for a file's id.
        progress: Show progress bars.

    Raises:
        DataError: A file cannot be fetched, differs from its recorded checksum, or is no JSON.
    """
    target = expanded(folder) if folder is not None else data_home() / "webshop"
    return Downloaded(
        *(_download(file, target, address, progress) for file in (SMALL if small else FULL))
    )


def _download(file: OfficialFile, folder: Path, address: str, progress: bool) -> Path:
    path = folder / file.name
    was_there = path.exists()
    fetch(filled(address, "id", file.drive_id), path, sha256=None, progress=progress)
    with path.open("rb") as stream:
        start = stream.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if start not in {b"[", b"{"}:
        if was_there:
            raise DataError(
                f"{path} was there before and is no JSON: move it away, and call this again"
            )
        # Google Drive answers with a page when a file was downloaded too often.
        path.unlink()
        path.with_name(path.name + ".sha256").unlink(missing_ok=True)
        raise DataError(
            f"{file.name}: what came is no JSON but probably a page of Google Drive. Try again "
            f"later, or open {PAGE.format(id=file.drive_id)} in a browser and save the file as "
            f"{path}"
        )
    return path


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `eto-gym data download webshop`."""
    add = parser.add_argument
    add("--small", action="store_true", help="the 1,000-product variant (5 MB)")
    add("--out", type=Path, metavar="FOLDER", help="folder for the files (default: the data home)")
    add(
        "--mirror",
        default=ADDRESS,
        metavar="URL",
        help="address; {id} is a file's id on Drive (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> str:
    """Download as the options say and return what to tell the user."""
    files = download(args.out, small=args.small, address=args.mirror)
    return (
        "Build a catalog from these files with:\n  eto-gym data build webshop "
        f"--products {files.products} --attributes {files.attributes} --goals {files.goals} "
        "--out FOLDER"
    )
