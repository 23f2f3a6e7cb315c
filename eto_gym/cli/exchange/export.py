"""`eto-gym export`: trajectories and pairs in the forms of other tools."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from eto_gym.export import FORMS, export


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "files",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="files of trajectories, or files of pairs (docs/data.md)",
    )
    parser.add_argument(
        "--to",
        required=True,
        choices=tuple(FORMS),
        help="; ".join(f"{name}: {what}" for name, what in FORMS.items()),
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="PATH",
        help="what to write: a folder for hf, inspect and atif, a JSON file for trl and sharegpt",
    )
    parser.add_argument(
        "--failures",
        action="store_true",
        help="write episodes without success, too, where the form is for imitation",
    )


def run(args: argparse.Namespace) -> int:
    """Write, and say what was written."""
    done = export(args.files, args.to, args.out, failures=args.failures)
    for line in done.read:
        print(line, file=sys.stderr)
    for what, count in done.wrote.items():
        print(f"{done.out}: {count} {what}")
    for reason, count in done.left_out.items():
        print(f"left out: {count} {reason}")
    return 0
