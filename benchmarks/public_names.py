"""The list of public names in docs/python.md, written from the packages' exports.

python -m eto_gym.benchmarks.public_names           # prints the list
python -m eto_gym.benchmarks.public_names --write   # puts it into docs/python.md
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import sys

from eto_gym.benchmarks.import_graph import ROOT, drawn_into

PACKAGES = (
    "eto_gym",
    "eto_gym.agents",
    "eto_gym.trainers",
    "eto_gym.trajectories",
    "eto_gym.vector",
    "eto_gym.testing",
)
"""Packages whose `__all__` is public."""

TARGET = ROOT / "docs" / "python.md"
BEGIN, END = "<!-- names: begin -->", "<!-- names: end -->"


def names() -> str:
    """Return a table of each package: name, and the first line of what documents it."""
    lines: list[str] = []
    for package in PACKAGES:
        module = importlib.import_module(package)
        lines += ["", f"### `{package}`", "", "| name | what it is |", "|---|---|"]
        lines += [f"| `{name}` | {_told(getattr(module, name))} |" for name in module.__all__]
    return "\n".join(lines).strip()


def _told(value: object) -> str:
    if isinstance(value, type) or inspect.isroutine(value):
        text = (inspect.getdoc(value) or "").split("\n\n")[0].replace("\n", " ")
        return text.removesuffix(".").replace("|", "\\|")
    return f"A value of type {type(value).__name__}" if isinstance(value, str) else "A type alias"


def main(argv: list[str] | None = None) -> int:
    """Print or write the list."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help="put the list into docs/python.md")
    if parser.parse_args(argv).write:
        text = TARGET.read_text(encoding="utf-8")
        TARGET.write_text(drawn_into(text, names(), BEGIN, END), encoding="utf-8")
    else:
        print(names())
    return 0


if __name__ == "__main__":
    sys.exit(main())
