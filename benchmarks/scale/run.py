"""The run: part after part, each on fresh hosts, every result on disk at once, and a table.

Parts that are left out keep the results that an earlier run in the same folder found.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eto_gym.benchmarks.scale.hosts import refusal_here
from eto_gym.benchmarks.scale.plan import CHECKOUT, read_plan
from eto_gym.benchmarks.scale.rehearsal import do
from eto_gym.errors import EtoGymError
from eto_gym.files import write_json


def main(argv: Sequence[str] | None = None) -> None:
    """Rehearse, and write what came of it."""
    plan = read_plan(argv)
    plan.out.mkdir(parents=True, exist_ok=True)
    if reason := refusal_here([CHECKOUT, Path(sys.prefix), plan.out]):
        sys.exit(reason)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    results = plan.out / "results.json"
    rows = _read(results)
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {text}", flush=True)

    for name in plan.parts:
        say(f"--- {name} ---")
        try:
            row = do(plan, name, say)
        except EtoGymError as err:
            row = {"part": name, "right": False, "error": str(err)}
        rows = [*(kept for kept in rows if kept["part"] != name), row]
        say("as it must be" if row["right"] else f"WRONG: {row.get('error', row)}")
        write_json(results, rows)
    print(table(rows))
    if not all(row["right"] for row in rows):
        sys.exit(1)


def _read(path: Path) -> list[dict[str, Any]]:
    """Return what earlier runs found in the same folder."""
    return list(json.loads(path.read_bytes())) if path.exists() else []


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return a row of Markdown for each part: what came of it and what its hosts have used."""
    lines = ["| part | right | CPU s of each host | peak MB of each | found |", "|" + "---|" * 5]
    for row in rows:
        hosts = row.get("hosts", {}).values()
        cpu = " + ".join(_figure(used["cpu_s"]) for used in hosts)
        peak = ", ".join(_figure(used["peak_mb"]) for used in hosts)
        kept = {k: v for k, v in row.items() if isinstance(v, int | float) and k != "right"}
        found = row.get("error") or ", ".join(f"{k} {v:g}" for k, v in kept.items())
        right = "yes" if row["right"] else "NO"
        lines.append(f"| {row['part']} | {right} | {cpu} | {peak} | {found} |")
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"
