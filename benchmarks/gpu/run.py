"""The run: part after part within its time, every result on disk at once, and a table."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from eto_gym.benchmarks.gpu.plan import SHAPES, Part, parts, refusal
from eto_gym.benchmarks.gpu.table import table
from eto_gym.benchmarks.gpu.worker import Measures, Worker
from eto_gym.files import write_json, write_text

SECONDS = 465.0
"""Eight minutes, less what it takes to unpack the archive and to begin."""

Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and write the results as JSON and as a table."""
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.sh", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="results; .md beside it")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all parts together")
    parser.add_argument("--parts", nargs="+", default=[], help="only these, by name")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="tiny shapes on whatever is here, a CPU too: shows that every part runs",
    )
    args = parser.parse_args(argv)
    shapes = SHAPES["tiny" if args.dry_run else "full"]
    plan = parts(shapes, args.parts)
    known = [part.name for part in parts(shapes)]
    if unknown := [name for name in args.parts if name not in known]:
        parser.error(f"no part {unknown[0]!r}: expected some of {', '.join(known)}")
    conditions = {
        "command": " ".join(["benchmarks/gpu.sh", *(sys.argv[1:] if argv is None else argv)]),
        "dry_run": args.dry_run,
        "seconds": args.seconds,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(Worker(shapes, args.out.with_suffix(".log"))) as worker:
        rows = run(plan, worker, args.out, conditions, seconds=args.seconds)
    print(table(rows))
    if any(row.get("failed") for row in rows):
        sys.exit("tests marked `cuda` failed")


def run(
    plan: Sequence[Part],
    worker: Measures,
    out: Path,
    conditions: dict[str, Any],
    *,
    seconds: float = SECONDS,
    now: Callable[[], float] = time.monotonic,
) -> list[Row]:
    """Do the parts one after another, and write the results after each job.

    A part ends when its own seconds and those before it are over, so that what one part leaves the
    next ones have. A job that would not fit, by what the part's last one took, is not begun.

    Args:
        plan: The parts; their seconds are shares of `seconds`.
        worker: Who measures.
        out: File of the results; a table goes beside it.
        conditions: What the results were made under.
        seconds: For all parts together.
        now: The clock.

    Returns:
        A row for every job: its fields, its part, and what was found or why nothing was.

    Raises:
        SystemExit: There is no GPU, and this is no dry run.
    """
    scale = seconds / sum(part.seconds for part in plan) if plan else 0.0
    rows: list[Row] = []
    card: float | None = None
    end = now()
    for part in plan:
        end += part.seconds * scale
        took = 0.0
        for job in part.jobs:
            started = now()
            found: dict[str, Any]
            if reason := refusal(job, card):
                found = {"error": reason}
            elif started + took > end or started >= end:
                left = max(0.0, end - started)
                found = {"error": f"not begun: {left:.0f} s were left, the last took {took:.0f}"}
            else:
                found = worker.do(job, end - started)
                took = now() - started
                found["job_s"] = took
            if job.kind == "rate":
                card = found.get("card_bytes")
                if card is None and "error" not in found and not conditions["dry_run"]:
                    sys.exit("torch finds no GPU here; --dry-run runs every part on a CPU, tiny")
            rows.append({"part": part.name, **dataclasses.asdict(job), **found})
            write_json(out, {**conditions, "rows": rows})
            write_text(out.with_suffix(".md"), table(rows))
    return rows
