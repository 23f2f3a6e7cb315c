"""The report of a run: a table for people, JSON for programs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from eto_gym.agents.report import table
from eto_gym.files import write_json, write_text


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """Write `report.json` and `report.md` into a run folder."""
    write_json(folder / "report.json", json.loads(json.dumps(report, default=str)))
    write_text(folder / "report.md", render(report) + "\n")


def render(report: dict[str, Any]) -> str:
    """Render the report as Markdown: policies, the paired tests, and the time of every stage."""
    head = f"# {report['env']} ({_data(report)}), preset {report['preset']}, seed {report['seed']}"
    rows, reference = report["policies"], report["reference"]
    episodes = rows[0]["episodes"]
    lines = [
        head,
        "",
        f"Greedy replies on {episodes} held-out episodes; brackets hold 95% intervals. "
        f"Model: {report['model']}.",
        "",
        *table(
            ["policy", "success", "reward", "steps", "tokens", "bad replies", "errors"],
            [_policy_row(row) for row in rows],
        ),
        "",
        *_paired(rows, "paired", _short(reference)),
        *_paired(rows, "paired_with_control", "the control"),
        *(table(["stage", "wall time"], [[x["name"], _time(x)] for x in report["stages"]])),
    ]
    return "\n".join(lines)


def _paired(rows: list[dict[str, Any]], key: str, reference: str) -> list[str]:
    """Render the paired tests under one key of the rows; nothing where there is none."""
    tests = [(row["policy"], row[key]) for row in rows if key in row]
    if not tests:
        return []
    return [
        f"Paired with {reference} on the same episodes (exact McNemar test):",
        "",
        *table(
            ["policy", "gained", "lost", "p"],
            [[name, str(t["gained"]), str(t["lost"]), f"{t['p']:.2g}"] for name, t in tests],
        ),
        "",
        *_verdicts(tests, reference),
        "",
    ]


def _verdicts(tests: list[tuple[str, dict[str, Any]]], reference: str) -> list[str]:
    """Say in words what each paired test shows; a p-value of 0.05 and more is called noise."""
    verdicts = []
    for name, test in tests:
        change = test["gained"] - test["lost"]
        if test["p"] >= 0.05:
            words = f"differs from {reference} by no more than noise"
        else:
            words = f"is {'better' if change > 0 else 'worse'} than {reference}"
        verdicts.append(f"- {name} {words} ({change:+d} episodes, p {test['p']:.2g}).")
    return verdicts


def _short(label: str) -> str:
    """Leave out what a label says in brackets."""
    return label.partition(" (")[0]


def _policy_row(row: dict[str, Any]) -> list[str]:
    tokens = row["generated_tokens"]
    return [
        row["policy"],
        _estimate(row["success"]),
        _estimate(row["reward"]),
        _number(row["steps"], 1),
        _number(tokens, 0),
        f"{row['format_errors']:.1%}",
        ", ".join(f"{kind} {count}" for kind, count in row["errors"].items()) or "0",
    ]


def _data(report: dict[str, Any]) -> str:
    data = report["env_kwargs"].get("data", "")
    return "built-in tasks" if data == "builtin" else str(data)


def _estimate(value: dict[str, float | None]) -> str:
    mean, low, high = (_number(value[name], 3) for name in ("mean", "low", "high"))
    return mean if "-" in (low, high) else f"{mean} [{low}, {high}]"


def _number(value: float | None, digits: int) -> str:
    """Write a number; one that does not exist (no episode, no interval) is a dash."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _time(stage: dict[str, Any]) -> str:
    return f"{stage['seconds']:.1f} s" + (" (earlier run)" if stage["reused"] else "")
