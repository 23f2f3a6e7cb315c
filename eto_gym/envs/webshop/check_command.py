"""`eto-gym data check`: compare an index folder with what its manifest says."""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="an index folder of `eto-gym data build webshop`",
    )


def run(args: argparse.Namespace) -> str:
    """Check every file and return what was found.

    Raises:
        DataError: A file is missing, or is not what was written.
    """
    from eto_gym.envs.webshop.catalog.catalog import Catalog

    catalog = Catalog.open(args.folder, verify=True)
    for kind in ("human", "synthetic"):
        catalog.goals(kind)
    return f"{args.folder}: {len(catalog)} products, every file as it was written"
