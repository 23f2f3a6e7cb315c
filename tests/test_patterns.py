"""Every regular expression of the project takes linear time on texts made to hurt it."""

from __future__ import annotations

import ast
import importlib
import re
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from eto_gym.errors import MissingDependencyError
from tests.growth import check_linear

ROOT = Path(__file__).parents[1]
FOLDERS = ("eto_gym", "agents", "trainers")
CALLS = {"compile", "match", "fullmatch", "search", "sub", "subn", "split", "findall", "finditer"}
ANCHORED = {"match", "fullmatch"}
# Patterns that are put together in a function, and why they are linear: looked at by hand.
BY_HAND = {
    "agents/models/pieces.py": "alternatives of literal texts",
    "agents/endpoint/sampling.py": "one literal text, the name of a field",
    "eto_gym/envs/alfworld/engine/wording.py": "the shape of _TASK there, for the name of a rule",
}


SEEN: set[tuple[str, int, bool]] = set()
"""Patterns that were looked at."""


class Use(NamedTuple):
    """A pattern and whether it is only looked for at one place of a text."""

    where: str
    load: Callable[[], re.Pattern[str]]
    anchored: bool


def uses() -> Iterator[Use]:
    """Yield every pattern of the project."""
    for path in sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(tuple(f"eto_gym/{link}/" for link in ("agents", "trainers"))):
            continue  # the same files by another way
        yield from uses_of(name, ast.parse(path.read_text("utf-8")))


def uses_of(name: str, tree: ast.Module) -> Iterator[Use]:
    """Yield the patterns of one file."""
    methods: dict[str, set[str]] = {}
    named: dict[int, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = node.value
            key = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", "")
            methods.setdefault(key, set()).add(node.attr)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            named[id(node.value)] = node.targets[0].id
    for call in ast.walk(tree):
        if not is_pattern_call(call):
            continue
        assert isinstance(call, ast.Call)
        assert isinstance(call.func, ast.Attribute)
        where = f"{name}:{call.lineno}"
        target = named.get(id(call), "") if call.func.attr == "compile" else ""
        if isinstance(call.args[0], ast.Constant) and not call.args[1:] and not call.keywords:
            load = partial(re.compile, call.args[0].value)
        elif isinstance(call.args[0], ast.Constant) and call.func.attr != "compile":
            load = partial(re.compile, call.args[0].value)
            assert not any(word.arg == "flags" for word in call.keywords), f"compile it: {where}"
        elif target:
            load = partial(imported, name, target)
        else:
            assert name in BY_HAND, f"{where} makes a pattern that no test can see"
            continue
        used = methods.get(target, set()) & CALLS if target else {call.func.attr}
        yield Use(where, load, anchored=bool(used) and used <= ANCHORED)


def is_pattern_call(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in CALLS
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "re"
    )


def imported(name: str, target: str) -> re.Pattern[str]:
    module_name = name.removesuffix(".py").replace("/", ".")
    if not module_name.startswith("eto_gym"):
        module_name = f"eto_gym.{module_name}"
    try:
        module = importlib.import_module(module_name)
    except (ImportError, MissingDependencyError) as err:
        pytest.skip(f"{module_name} needs {err}")
    pattern = getattr(module, target)
    assert isinstance(pattern, re.Pattern)
    return pattern


# --- texts made to hurt a pattern ---------------------------------------------------------------

parser: Any = re._parser  # type: ignore[attr-defined]
PROBES = "a7 \n\t_.,:;'\"\\()[]{}<>*#-$/é日AZz\u200d"


def pieces(parsed: Any) -> Iterator[str]:
    """Yield a text for each part of a pattern, in order: one that the part would match."""
    for kind, value in parsed:
        name = str(kind)
        if name == "LITERAL":
            yield chr(value)
        elif name in {"ANY", "NOT_LITERAL", "IN"}:
            yield one_of(kind, value)
        elif name in {"MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"}:
            yield from pieces(value[2])
        elif name == "SUBPATTERN":
            yield from pieces(value[3])
        elif name == "ATOMIC_GROUP":
            yield from pieces(value)
        elif name == "BRANCH":
            yield from pieces(value[1][0])


def one_of(kind: Any, value: Any) -> str:
    """Return a character that a part of a pattern accepts."""
    only = parser.SubPattern(parser.State(), [(kind, value)])
    accepts = re._compiler.compile(only).match  # type: ignore[attr-defined]
    return next(filter(accepts, PROBES), "a")


def alphabet(parsed: Any) -> set[str]:
    """Return the characters that a pattern speaks of, or some that stand for them."""
    found: set[str] = set()
    for kind, value in parsed:
        name = str(kind)
        if name == "LITERAL":
            found.add(chr(value))
        elif name in {"ANY", "NOT_LITERAL", "IN"}:
            only = parser.SubPattern(parser.State(), [(kind, value)])
            accepts = re._compiler.compile(only).match  # type: ignore[attr-defined]
            found.update([*filter(accepts, PROBES)][:6])
        elif name == "BRANCH":
            found.update(*(alphabet(branch) for branch in value[1]))
        elif isinstance(value, tuple) and hasattr(value[-1], "data"):
            found |= alphabet(value[-1])
        elif hasattr(value, "data"):
            found |= alphabet(value)
    return found


def hostile(pattern: re.Pattern[str]) -> Iterator[Callable[[int], str]]:
    """Yield makers of texts: beginnings of a match, and runs of what the pattern repeats."""
    parsed = parser.parse(pattern.pattern, pattern.flags & ~re.UNICODE)
    parts = [*pieces(parsed)]
    heads = {"".join(parts[:count]) for count in range(len(parts) + 1)}
    if len(heads) > 24:  # of long literal texts, some beginnings do
        heads = set(sorted(heads, key=len)[:: len(heads) // 24])
    letters = sorted(alphabet(parsed), key=lambda letter: (letter.isalnum(), letter))[:12]
    for head in heads:
        for unit in (head, head + " ") if head else ():
            # A long beginning is there less often, so the text has to be longer.
            yield lambda length, unit=unit: unit * min(length, 16 * length // len(unit))  # type: ignore[misc]
        for letter in letters:
            yield lambda length, head=head, letter=letter: head + letter * length + "\0"  # type: ignore[misc]
    for number, first in enumerate(letters):
        for second in letters[number:]:  # the other way round, it is the same but for its ends
            yield lambda length, pair=first + second: pair * (length // 2) + "\0"  # type: ignore[misc]


@pytest.mark.parametrize("use", [pytest.param(use, id=use.where) for use in uses()])
def test_pattern_takes_linear_time(use: Use) -> None:
    pattern = use.load()
    looked_at = (pattern.pattern, pattern.flags, use.anchored)
    if looked_at in SEEN:
        return  # the same pattern stands elsewhere, too
    SEEN.add(looked_at)

    def work(text: str) -> object:
        if use.anchored:
            return pattern.match(text), pattern.fullmatch(text)
        return deque(pattern.finditer(text), maxlen=0)

    for make in hostile(pattern):
        check_linear(work, make, length=500)


@pytest.mark.parametrize(
    "pattern",
    [r"^[\s*]*action", r"[^ ]*[^\x00-\x7f][^ ]*", r"\(\s*([^\s()]+)\s+([^()]*)\)"],
)
def test_what_is_not_linear_is_found(pattern: str) -> None:
    compiled = re.compile(pattern, re.MULTILINE)

    def check_all() -> None:
        for make in hostile(compiled):
            check_linear(lambda text: [*compiled.finditer(text)], make, length=500)

    with pytest.raises(AssertionError, match="characters take"):
        check_all()
