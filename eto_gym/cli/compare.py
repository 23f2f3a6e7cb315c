"""`eto-gym compare RUN...`: scores in one table, with paired tests, if they may be compared."""

from __future__ import annotations

import argparse
from pathlib import Path

from eto_gym.cli.terminal import printable
from eto_gym.errors import EtoGymError
from eto_gym.files import write_json


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="run folder, report of `eto-gym eval`, folder of such reports, or trajectories; the "
        "first score is what the others are compared with",
    )
    parser.add_argument(
        "--mark",
        action="store_true",
        help="compare scores whose cards differ in what matters, too, and mark them",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the comparison as JSON")


def run(args: argparse.Namespace) -> int:
    """Compare; scores that are not comparable are refused unless they are to be marked."""
    from eto_gym.agents.evaluation.comparison import (
        compare_rows,
        difference_text,
        load_rows,
        render,
    )

    compared = compare_rows(load_rows(args.runs))
    refused = [item for item in compared if item.matters]
    if refused and not args.mark:
        told = "\n".join(f"  {item.row.name}: {difference_text(item.matters)}" for item in refused)
        raise EtoGymError(
            f"not comparable with {compared[0].row.name}:\n{told}\n"
            "--mark compares them all the same, and marks them"
        )
    if args.json is not None:
        if args.json.exists() and any(args.json.samefile(run) for run in args.runs):
            raise EtoGymError(f"--json {args.json} is one of the scores: name another file")
        write_json(args.json, {"format": 1, "rows": [item.to_json() for item in compared]})
    print(printable(render(compared)))
    return 0
