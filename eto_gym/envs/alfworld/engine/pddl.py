"""Reads the PDDL of ALFRED games: the facts of a problem, its goal, and the rules of a domain.

The reader knows the subset of PDDL that the official game files use, ignores case and comments as
PDDL does, and says what it does not understand instead of guessing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from eto_gym.errors import DataError

Expression: TypeAlias = "str | list[Expression]"
"""A symbol, or a parenthesised list of expressions."""

_TOKEN = re.compile(r"[()]|[^\s()]+")
_COMMENT = re.compile(r";[^\n]*")
_FACT = re.compile(r"\(\s*+([^\s()]++)\s++([^()]*+)\)")
_SECTION = re.compile(r"\(\s*:([a-z-]+)")


@dataclass(frozen=True, slots=True)
class Problem:
    """The contents of a PDDL problem, in lower case.

    Attributes:
        types: Declared object -> its type.
        facts: Predicate -> argument tuples that hold at the start, in the order of the file.
        goal: The goal as an expression.
    """

    types: dict[str, str]
    facts: dict[str, list[tuple[str, ...]]]
    goal: Expression


@dataclass(frozen=True, slots=True)
class Rules:
    """What differs between the official versions of the ALFRED domain.

    Attributes:
        clean_types: Receptacle types in which objects are cleaned.
        has_help: Whether the action `help` exists.
    """

    clean_types: frozenset[str]
    has_help: bool


def parse_problem(text: str) -> Problem:
    """Read a PDDL problem.

    Raises:
        DataError: A section is missing or malformed.
    """
    text = _strip_comments(text).lower()
    found = list(_SECTION.finditer(text))
    sections: dict[str, str] = {}
    for match, following in zip(found, [*found[1:], None], strict=False):
        end = len(text) if following is None else following.start()
        sections[match.group(1)] = text[match.end() : end]
    for name in ("objects", "init", "goal"):
        if name not in sections:
            raise DataError(f"the PDDL problem has no section (:{name} ...)")
    facts: dict[str, list[tuple[str, ...]]] = {}
    for name, arguments in _FACT.findall(sections["init"]):
        facts.setdefault(name, []).append(tuple(arguments.split()))
    goal = next(read_expressions(sections["goal"]), None)
    if goal is None:
        raise DataError("the PDDL problem has an empty goal")
    return Problem(_typed_names(sections["objects"].replace(")", " ").split()), facts, goal)


def read_expressions(text: str) -> Iterator[Expression]:
    """Yield the expressions of `text` one after the other, up to a surplus closing parenthesis.

    Raises:
        DataError: A parenthesis is not closed.
    """
    stack: list[list[Expression]] = []
    for token in _TOKEN.findall(text):
        if token == "(":
            stack.append([])
        elif token == ")":
            if not stack:
                return
            done: Expression = stack.pop()
            if stack:
                stack[-1].append(done)
            else:
                yield done
        elif stack:
            stack[-1].append(token)
        else:
            yield token
    if stack:
        raise DataError("unbalanced parentheses in PDDL")


def parse_variables(expression: Expression) -> list[tuple[str, str]]:
    """Read a typed variable list (`?o - object ?r - receptacle`) as (variable, type) pairs.

    Raises:
        DataError: It is no list of symbols.
    """
    if isinstance(expression, str) or not all(isinstance(part, str) for part in expression):
        raise DataError(f"expected a typed variable list in PDDL, got {expression!r}")
    return list(_typed_names([str(part) for part in expression]).items())


def _typed_names(tokens: list[str]) -> dict[str, str]:
    types: dict[str, str] = {}
    pending: list[str] = []
    position = 0
    while position < len(tokens):
        if tokens[position] == "-" and position + 1 < len(tokens):
            types.update(dict.fromkeys(pending, tokens[position + 1]))
            pending.clear()
            position += 2
        else:
            pending.append(tokens[position])
            position += 1
    types.update(dict.fromkeys(pending, "object"))
    return types


def _strip_comments(text: str) -> str:
    return _COMMENT.sub("", text) if ";" in text else text


# --- the domain ----------------------------------------------------------------------------------

_ACTION_DIGESTS = {
    "look": ("3d88a260306e",),
    "inventory": ("835fc334fc6b",),
    "help": ("85cc43adb709",),
    "examinereceptacle": ("4cdf6811ea90",),
    "examineobject": ("4643e5d864da", "57ea34d271ee"),
    "gotolocation": ("3fdf7c293ec1",),
    "openobject": ("6cf10ea8719a",),
    "closeobject": ("c2262acde7d3",),
    "pickupobject": ("33a6331ec657",),
    "putobject": ("84bcb2a7d31a",),
    "cleanobject": ("20686380696d", "eb444ca03b59"),
    "heatobject": ("aa9850062401",),
    "coolobject": ("38b866999f72",),
    "toggleobject": ("49d2b6807047",),
    "sliceobject": ("b405ff933110",),
}
"""Action -> digests of the definitions that the engine implements (see `_canonical`). The official
versions of the domain differ in `cleanobject` (with or without SinkType) and `help`. The second
digest of `examineobject` is the plain `(holds ?a ?o)`, which is what the official one amounts to:
its other branch quantifies over a type named `location,`, with the comma, which has no members."""


@lru_cache(maxsize=16)
def parse_domain(text: str) -> Rules:
    """Check that a PDDL domain is one that the engine implements and tell its version.

    Raises:
        DataError: An action is missing, unknown, or defined in a way that the engine does not know.
    """
    actions: dict[str, Expression] = {}
    for expression in read_expressions(_strip_comments(text).lower()):
        for part in expression:
            if isinstance(part, list) and len(part) > 1 and part[0] == ":action":
                actions[str(part[1])] = part
    missing = sorted(set(_ACTION_DIGESTS) - set(actions) - {"help"})
    if missing:
        raise DataError(f"the PDDL domain lacks the ALFRED actions {', '.join(missing)}")
    for name, action in actions.items():
        if name not in _ACTION_DIGESTS or _digest(action) not in _ACTION_DIGESTS[name]:
            raise DataError(
                f"the PDDL domain defines the action {name!r} in a way that the engine does not "
                'implement; backend="textworld" plays it'
            )
    clean = _canonical(actions["cleanobject"])
    return Rules(
        clean_types=frozenset(re.findall(r"receptacletype \?r (\w+)", clean)),
        has_help="help" in actions,
    )


def _canonical(expression: Expression) -> str:
    """Write an expression without costs, its conjunctions and disjunctions flat and sorted."""
    if isinstance(expression, str):
        return expression
    parts = [
        _canonical(part)
        for part in expression
        if not (isinstance(part, list) and part and part[0] == "increase")
    ]
    if parts and parts[0] in {"and", "or"}:
        if len(parts) == 2:
            return parts[1]
        parts = [parts[0], *sorted(parts[1:])]
    return "(" + " ".join(parts) + ")"


def _digest(action: Expression) -> str:
    return hashlib.sha256(_canonical(action).encode()).hexdigest()[:12]
