"""The import graph of the project: its circles, and the picture of its rooms in CONTRIBUTING.md.

    python -m eto_gym.benchmarks.import_graph           # prints the picture, and circles if any
    python -m eto_gym.benchmarks.import_graph --write   # puts it into CONTRIBUTING.md

Deferred imports (inside functions) and imports for type checkers count as any other: what a reader
has to follow, not what the interpreter happens to run. An import of a package's name is an arrow to
the package itself, or to the module of that name where there is one.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"eto_gym": "eto_gym", "agents": "eto_gym.agents", "trainers": "eto_gym.trainers",
           "benchmarks": "eto_gym.benchmarks"}  # fmt: skip

Graph = dict[str, set[str]]


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Return every module's dotted name and file; folders that are links count once."""
    found = {}
    for folder, package in FOLDERS.items():
        base = root / folder
        for path in sorted(base.rglob("*.py")):
            parts = path.relative_to(base).with_suffix("").parts
            if any((base / Path(*parts[:i])).is_symlink() for i in range(1, len(parts))):
                continue
            name = ".".join((package, *parts)).removesuffix(".__init__")
            found[name] = path
    return found


def import_graph(root: Path = ROOT) -> Graph:
    """Return, for every module, the modules of the project that it imports."""
    files = modules(root)
    return {name: set(_imports(name, path, files)) - {name} for name, path in files.items()}


def _imports(name: str, path: Path, files: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in files)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                package = name if path.name == "__init__.py" else name.rpartition(".")[0]
                base = package.split(".")[: len(package.split(".")) - node.level + 1]
                source = ".".join([*base, source] if source else base)
            for alias in node.names:
                member = f"{source}.{alias.name}"
                if member in files:
                    yield member
                elif source in files:
                    yield source


def circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Return the circles: for each group of modules that reach one another, a shortest way round.

    Each way begins and ends with the same module.
    """
    reach = {name: reached(graph, name) for name in graph}
    groups = {frozenset(m for m in reach[name] if name in reach[m]) for name in graph}
    return sorted(_shortest_circle(graph, group) for group in groups if group)


def reached(graph: Mapping[str, Iterable[str]], start: str) -> set[str]:
    """Return all that can be reached along the arrows; the start itself only in a circle."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        for following in graph[todo.pop()]:
            if following not in seen:
                seen.add(following)
                todo.append(following)
    return seen


def _shortest_circle(graph: Mapping[str, Iterable[str]], group: frozenset[str]) -> list[str]:
    ways = (way(graph, name, name) for name in sorted(group))
    return min((w for w in ways if w), key=len)


def way(graph: Mapping[str, Iterable[str]], start: str, goal: str) -> list[str]:
    """Return a shortest way along the arrows from one module to another; empty if there is none."""
    before: dict[str, str] = {}
    queue = [start]
    for name in queue:
        for following in sorted(graph[name]):
            if following not in before:
                before[following] = name
                queue.append(following)
            if following == goal:
                steps = [goal]
                while len(steps) == 1 or steps[-1] != start:
                    steps.append(before[steps[-1]])
                return steps[::-1]
    return []


# --- rooms ----------------------------------------------------------------------------------------

CORE = "eto_gym"
BEGIN, END = "<!-- rooms: begin -->", "<!-- rooms: end -->"


def room_of(module: str, path: Path) -> str:
    """Return the room of a module: its package, with four exceptions.

    The packages of a benchmark are one room, and so are the commands; trajectories belong to the
    core, with which they share the messages; and what lies loose in `agents` or `trainers` is a
    room by itself.
    """
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    if package in ("eto_gym.agents", "eto_gym.trainers"):
        return module
    if module.startswith("eto_gym.envs."):
        return ".".join(module.split(".")[:3])
    if package.startswith("eto_gym.cli."):
        return "eto_gym.cli"
    return CORE if package == "eto_gym.trajectories" else package


def rooms(graph: Graph, files: Mapping[str, Path]) -> Graph:
    """Return, for every room, the others that it imports from.

    What `agents` and `trainers` export for the outside are not imports of theirs.
    """
    found: Graph = {}
    faces = {"eto_gym.agents", "eto_gym.agents.rollout.collect", "eto_gym.envs", "eto_gym.trainers"}
    for module in graph.keys() - faces:
        room = room_of(module, files[module])
        known = found.setdefault(room, set())
        known |= {room_of(name, files[name]) for name in graph[module]} - {room}
    return {room: known - faces for room, known in found.items()}


def picture(root: Path = ROOT) -> str:
    """Draw the rooms: a table, and a Mermaid graph from the users down to the used.

    Arrows that a longer way tells already are left out of the graph.
    """
    files = modules(root)
    graph = rooms(import_graph(root), files)
    table = ["| room | holds |", "|---|---|"]
    for room in sorted(graph, key=lambda name: (_short(name).split("/")[0], name)):
        table.append(f"| `{_short(room)}` | {_first_line(files[room])} |")
    drawing = ["```mermaid", "graph TD"]
    drawing += [f'    {_node(room)}["{_short(room)}"]' for room in sorted(graph)]
    for room in sorted(graph):
        below = {name for used in graph[room] for name in reached(graph, used)}
        if direct := sorted(graph[room] - below):
            drawing.append(f"    {_node(room)} --> {' & '.join(map(_node, direct))}")
    return "\n".join([*table, "", *drawing, "```"])


def _short(room: str) -> str:
    """Name a room as the folders are named."""
    parts = room.split(".")
    inner = parts[1:] if len(parts) > 1 and parts[1] in FOLDERS else parts
    return "/".join(inner)


def _node(room: str) -> str:
    return _short(room).replace("/", "_")


def _first_line(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.split("\n\n")[0].replace("\n", " ").removesuffix(".")


def drawn_into(text: str, drawing: str, first: str = BEGIN, last: str = END) -> str:
    """Return the text of a file with what is between the two markers replaced."""
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"expected the markers {first} and {last}")
    return f"{before}{first}\n{drawing}\n{last}{after}"


def main(argv: list[str] | None = None) -> int:
    """Print or write the picture; return 1 where there is a circle."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help="put the picture into CONTRIBUTING.md")
    args = parser.parse_args(argv)
    found = circles(import_graph())
    for circle in found:
        print("circle: " + " -> ".join(circle))
    if args.write:
        target = ROOT / "CONTRIBUTING.md"
        target.write_text(drawn_into(target.read_text(encoding="utf-8"), picture()), "utf-8")
    else:
        print(picture())
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
