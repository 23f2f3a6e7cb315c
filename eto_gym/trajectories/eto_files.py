"""The expert trajectories that the ETO paper published: where they are, and their download.

They are a dataset on the Hugging Face hub (Apache-2.0), one JSON list for each benchmark.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from eto_gym.downloads import data_home, fetch, filled
from eto_gym.errors import DataError, check_choice

PREFIX = "eto:"
"""What precedes a benchmark's name where these files are meant: "eto:webshop"."""

REVISION = "a8f745ef799a5201d2288b9c2a47e40a0ff70a4c"
ADDRESS = (
    f"https://huggingface.co/datasets/agent-eto/eto-sft-trajectory/resolve/{REVISION}/data/{{name}}"
)
"""Address of a file; `{name}` stands for its name."""


@dataclass(frozen=True, slots=True)
class ExpertFile:
    """One file of the dataset: its name, checksum, records and bytes."""

    name: str
    sha256: str
    records: int
    size: int


FILES: dict[str, ExpertFile] = {
    "webshop": ExpertFile(
        "webshop_sft.json",
        "3fd1ff38f28dccaf4448cc5fa8609f2a3d3100bed303d66b6d748cff5a49601b",
        1_823,
        10_741_287,
    ),
    "sciworld": ExpertFile(
        "sciworld_sft.json",
        "7079f08068ec4c526628857695231b97939472e697c3a87b4f75f682829f0ee5",
        1_482,
        13_428_264,
    ),
    "alfworld": ExpertFile(
        "alfworld_sft.json",
        "9bc9720466cdbae9da26f60ab61ccdd34ae2d1e8c9f1b2ca5a1acb6606f66972",
        3_118,
        18_523_982,
    ),
}
"""Benchmark, as the paper's files call it -> its file."""


def default_folder() -> Path:
    """Return where the files go when no folder is named."""
    return data_home() / "eto-trajectories"


def download(
    folder: str | Path | None = None,
    *,
    address: str = ADDRESS,
    files: Mapping[str, ExpertFile] | None = None,
    progress: bool = True,
) -> dict[str, Path]:
    """Download what is missing of the files, and verify what is there.

    Args:
        folder: Where the files go; None takes `default_folder()`.
        address: Where they are; `{name}` stands for a file's name.
        files: What to fetch, and the checksums that it must have; None means `FILES`.
        progress: Show progress bars.

    Returns:
        Benchmark -> file.

    Raises:
        DataError: A file cannot be fetched, or has another checksum.
    """
    target = Path(folder) if folder is not None else default_folder()
    return {
        benchmark: fetch(
            filled(address, "name", file.name),
            target / file.name,
            sha256=file.sha256,
            progress=progress,
        ).path
        for benchmark, file in (FILES if files is None else files).items()
    }


def find_file(name: str) -> Path:
    """Return the downloaded file that "eto:webshop", "eto:sciworld" or "eto:alfworld" names.

    Raises:
        DataError: It was not downloaded yet.
        UnknownNameError: There is no such file.
    """
    known = [PREFIX + each for each in FILES]
    check_choice("the paper's experts", name, known)
    path = default_folder() / FILES[name.removeprefix(PREFIX)].name
    if not path.is_file():
        raise DataError(
            f"{name} is not on this machine yet: run `eto-gym data download eto-trajectories`"
        )
    return path


# --- the command ---------------------------------------------------------------------------------


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `eto-gym data download eto-trajectories`."""
    add = parser.add_argument
    add(
        "--mirror",
        default=ADDRESS,
        metavar="URL",
        help="address; {name} is a file's name (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> str:
    """Download the files and say what they are for."""
    paths = download(address=args.mirror)
    lines = [f"{path}: {FILES[name].records:,} trajectories" for name, path in paths.items()]
    names = ", ".join(PREFIX + name for name in paths)
    return "\n".join([*lines, f"Use them as --expert-file of `eto-gym train`: {names}"])
