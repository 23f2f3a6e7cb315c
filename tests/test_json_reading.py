"""Whoever reads JSON and bears what is none also bears what is nested too deeply."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = [p for room in ("eto_gym", "agents", "trainers") for p in (ROOT / room).rglob("*.py")]


def _reads_json(nodes: list[ast.stmt]) -> bool:
    calls = (n for s in nodes for n in ast.walk(s) if isinstance(n, ast.Call))
    return any(ast.unparse(call.func) in ("json.loads", "json.load") for call in calls)


def test_deep_nesting_is_caught_wherever_bad_json_is() -> None:
    read = 0
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Try) or not _reads_json(node.body):
                continue
            caught = {
                n.id for h in node.handlers if h.type for n in ast.walk(h.type)
                if isinstance(n, ast.Name)
            }  # fmt: skip
            where = f"{path.relative_to(ROOT)}:{node.lineno}"
            assert caught & {"RecursionError", "Exception"} or "ValueError" not in caught, where
            read += 1
    assert read > 20
