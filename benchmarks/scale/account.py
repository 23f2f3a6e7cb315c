"""Accounts for what was played: every planned episode once, as if nothing had failed."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eto_gym.trajectories import Trajectory, TrajectoryStore

_LOST = re.compile(r"a rollout process died .*? with (\d+) episodes", re.DOTALL)


def episodes(expected: Sequence[Trajectory], stored: Sequence[Trajectory]) -> dict[str, Any]:
    """Count the episodes of a rollout.

    Args:
        expected: Those of one that nothing disturbed.
        stored: All records of the one that hosts were taken from.

    Returns:
        The counts, and whether every episode is there, once with a score, and the same.
    """
    scored = Counter(t.key for t in stored if not t.failed_to_run)
    final = {t.key: t for t in stored}
    counts = {
        "planned": len(expected),
        "stored": len(final),
        "scored once": sum(count == 1 for count in scored.values()),
        "equal": sum(final.get(t.key) == t for t in expected),
    }
    return {
        **counts,
        "records of errors": sum(t.failed_to_run for t in stored),
        "right": len(set(counts.values())) == 1 and len(stored) >= len(expected),
    }


def rollout_files(expected: Path, stored: Path) -> dict[str, Any]:
    """Count the episodes of two files; see `episodes`."""
    return episodes(*(TrajectoryStore(path).load(strict=True) for path in (expected, stored)))


def loops(expected: Path, done: Path) -> dict[str, Any]:
    """Compare two run folders in what does not depend on time: episodes, pairs and scores.

    Args:
        expected: The folder of the loop that nothing disturbed.
        done: The other one.

    Returns:
        The counts, and whether both are the same.
    """
    wanted = sorted(path.name for path in expected.glob("stages/*"))
    found = sorted(path.name for path in done.glob("stages/*"))
    files = sorted(
        path.relative_to(expected)
        for name in ("trajectories.jsonl", "pairs.json")
        for path in expected.glob(f"stages/*/{name}")
    )
    differing = [str(file) for file in files if _read(expected / file) != _read(done / file)]
    scores = [_scores(folder) for folder in (expected, done)]
    return {
        "stages": len(wanted),
        "files of episodes and pairs": len(files),
        "differing": differing,
        "success": dict(scores[1]),
        "right": bool(files) and wanted == found and not differing and scores[0] == scores[1],
    }


def lost(log: str) -> list[int]:
    """Return how many episodes each worker had that died, by what the command told."""
    return [int(count) for count in _LOST.findall(log)]


def _read(path: Path) -> Any:
    """Return what a file holds, but for how the tokens of its episodes were counted.

    How much of a prompt is computed anew goes with what else is played at the same time.
    """
    if not path.exists():
        return None
    if path.suffix != ".jsonl":
        return path.read_bytes()
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("usage", "digest")} for row in rows]


def _scores(folder: Path) -> list[tuple[str, float]]:
    report = folder / "report.json"
    if not report.exists():
        return []
    rows = json.loads(report.read_bytes())["policies"]
    return [(row["policy"], row["success"]["mean"]) for row in rows]
