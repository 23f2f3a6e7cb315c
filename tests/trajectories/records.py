"""Records that tests of reading write into files, and read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eto_gym.trajectories import Trajectory
from eto_gym.trajectories import formats as f


def talk(n: int, *, speaker: str = "from", words: str = "value") -> list[dict[str, Any]]:
    """Return the turns of an episode: an acknowledgement, then two replies with actions."""
    told = [
        ("human", "You keep a lighthouse. Reply with an action."),
        ("gpt", "Understood."),
        ("human", f"The lamp is out. Task {n}"),
        ("gpt", "Thought: fuel first\nAction: fill lamp"),
        ("human", "Observation: it is full"),
        ("gpt", f"Thought: now light it\nAction: light lamp {n}"),
    ]
    names = {"human": "user", "gpt": "assistant"} if speaker == "role" else {}
    return [{speaker: names.get(who, who), words: text} for who, text in told]


def records(count: int = 3) -> list[Any]:
    return [{"id": f"t{n}", "conversations": talk(n)} for n in range(count)]


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def lines(items: list[Any], end: str = "\n") -> str:
    return "".join(json.dumps(item) + end for item in items)


def read(path: Path) -> tuple[list[Trajectory], f.ReadReport]:
    report = f.ReadReport()
    items, skipped = f.read_demonstrations(path, report=report)
    assert skipped == [number for number, _ in report.skipped]
    assert len(items) + len(skipped) == report.records
    return items, report


def one(**changes: Any) -> Trajectory:
    return f.read_demonstration({"id": "t0", "conversations": talk(0), **changes})
