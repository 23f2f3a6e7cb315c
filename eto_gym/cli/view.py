"""`eto-gym view PATH...`: trajectories, pairs and runs as a page for a browser."""

from __future__ import annotations

import argparse
from pathlib import Path

from eto_gym.view import write_view


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "paths",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="file of trajectories or pairs, run folder, or a folder with such files",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=None,
        metavar="FILE.html",
        help="the page (default: view.html in the first folder, or beside the first file)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the page."""
    first = args.paths[0]
    out = args.out or (first / "view.html" if first.is_dir() else first.with_suffix(".html"))
    print(f"{write_view(args.paths, out).resolve()}")
    return 0
