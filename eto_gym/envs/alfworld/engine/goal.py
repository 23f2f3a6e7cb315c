"""Evaluates ALFRED goals: conjunctions under existential quantifiers over objects and places.

A goal is compiled once per game. Facts that never change narrow each variable's values in advance,
and the rest is a small backtracking search that binds one variable after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from eto_gym.envs.alfworld.engine.pddl import Expression, parse_variables
from eto_gym.errors import DataError


class World(Protocol):
    """What a goal looks at: the parts of an episode that change. All members are indices."""

    location: int
    held: int
    opened: set[int]
    inside: list[tuple[int, ...]]
    at: list[frozenset[int]]
    clean: set[int]
    hot: set[int]
    cool: set[int]
    sliced: set[int]
    toggled: set[int]


Binding: TypeAlias = list[int]
Check: TypeAlias = Callable[[World, Binding], bool]

_FLUENTS: dict[str, tuple[frozenset[str], Callable[..., Check]]] = {
    "inreceptacle": (
        frozenset({"take", "put"}),
        lambda o, r: lambda world, bound: bound[r] in world.inside[bound[o]],
    ),
    "objectatlocation": (
        frozenset({"take", "put"}),
        lambda o, l: lambda world, bound: bound[l] in world.at[bound[o]],  # noqa: E741
    ),
    "holds": (
        frozenset({"take", "put"}),
        lambda _, o: lambda world, bound: world.held == bound[o],
    ),
    "holdsany": (frozenset({"take", "put"}), lambda _: lambda world, bound: world.held >= 0),
    "atlocation": (
        frozenset({"go"}),
        lambda _, l: lambda world, bound: world.location == bound[l],  # noqa: E741
    ),
    "opened": (
        frozenset({"open", "close"}),
        lambda r: lambda world, bound: bound[r] in world.opened,
    ),
    "isclean": (frozenset({"clean"}), lambda o: lambda world, bound: bound[o] in world.clean),
    "ishot": (frozenset({"heat", "cool"}), lambda o: lambda world, bound: bound[o] in world.hot),
    "iscool": (frozenset({"heat", "cool"}), lambda o: lambda world, bound: bound[o] in world.cool),
    "issliced": (frozenset({"slice"}), lambda o: lambda world, bound: bound[o] in world.sliced),
    "istoggled": (frozenset({"use"}), lambda o: lambda world, bound: bound[o] in world.toggled),
}
"""Predicate that changes -> the kinds of actions that change it, and the maker of its check."""


@dataclass(frozen=True, slots=True)
class _Variable:
    """One variable of the search: its possible values, and what must hold once it is bound."""

    slot: int
    values: frozenset[int]
    narrow: Callable[[World, Binding], Iterable[int]] | None
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True)
class Literal:
    """A fact that the goal asks for, or with `positive=False` forbids; variables begin with "?"."""

    predicate: str
    arguments: tuple[str, ...]
    positive: bool


@dataclass(frozen=True, slots=True)
class Goal:
    """A compiled goal.

    Attributes:
        triggers: Kinds of actions after which the goal may have become true or false.
        literals: What must hold of the variables, constant facts about one variable left out.
        domains: Variable -> (its type, the values that those constant facts leave it).
    """

    triggers: frozenset[str]
    _variables: tuple[_Variable, ...]
    literals: tuple[Literal, ...] = ()
    domains: Mapping[str, tuple[str, frozenset[int]]] = field(default_factory=dict)

    def holds(self, world: World) -> bool:
        """Tell whether the goal is reached."""
        return self._search(world, [-1] * len(self._variables), 0)

    def _search(self, world: World, bound: Binding, depth: int) -> bool:
        if depth == len(self._variables):
            return True
        variable = self._variables[depth]
        values = variable.values if variable.narrow is None else variable.narrow(world, bound)
        for value in values:
            if value not in variable.values:
                continue
            bound[variable.slot] = value
            if all(check(world, bound) for check in variable.checks) and self._search(
                world, bound, depth + 1
            ):
                return True
        return False


def compile_goal(
    expression: Expression,
    *,
    members: Mapping[str, Sequence[str]],
    static: Mapping[str, Iterable[tuple[str, ...]]],
) -> Goal:
    """Compile a goal.

    Args:
        expression: The goal as `pddl.parse_problem` read it.
        members: Type -> the names of its members; a value of the search is an index into these.
        static: The facts that never change.

    Raises:
        DataError: The goal uses more than `and`, `exists`, negated and plain facts, and `=`.
    """
    variables: dict[str, str] = {}
    literals: list[Literal] = []
    _flatten(expression, {}, variables, literals)
    facts = {name: set(rows) for name, rows in static.items()}
    index = {kind: {name: i for i, name in enumerate(names)} for kind, names in members.items()}
    for literal in literals:
        if literal.predicate not in _FLUENTS and literal.predicate not in facts:
            # A predicate without a single fact is false everywhere, as in PDDL.
            facts[literal.predicate] = set()

    slots = {name: i for i, name in enumerate(variables)}
    plan: list[_Variable] = []
    domains: dict[str, tuple[str, frozenset[int]]] = {}
    told: list[Literal] = []
    bound: set[str] = set()
    triggers: set[str] = set()
    for name in _search_order(variables, literals):
        kind = variables[name]
        bound.add(name)
        ready = [
            literal
            for literal in literals
            if name in literal.arguments
            and all(a in bound for a in literal.arguments if a.startswith("?"))
        ]
        values = set(range(len(members.get(kind, ()))))
        narrow: Callable[[World, Binding], Iterable[int]] | None = None
        checks: list[Check] = []
        for literal in ready:
            others = [a for a in literal.arguments if a.startswith("?") and a != name]
            if literal.predicate == "=":
                if len({variables.get(a) for a in literal.arguments}) != 1:
                    raise DataError(f"the engine does not evaluate the comparison {literal}")
                checks.append(_equality(literal, slots))
            elif literal.predicate in _FLUENTS:
                kinds, make = _FLUENTS[literal.predicate]
                triggers |= kinds
                check = make(*(_slot(a, slots) for a in literal.arguments))
                checks.append(check if literal.positive else _negate(check))
                narrow = narrow or _narrowing(literal, name, slots)
            elif not others:
                rows = facts[literal.predicate]
                values = {
                    i
                    for i in values
                    if (_substitute(literal, {name: members[kind][i]}) in rows) == literal.positive
                }
                continue
            else:
                checks.append(_relation(literal, facts, slots, variables, index))
            told.append(literal)
        domains[name] = (kind, frozenset(values))
        plan.append(_Variable(slots[name], frozenset(values), narrow, tuple(checks)))
    return Goal(frozenset(triggers), tuple(plan), tuple(told), domains)


def _flatten(
    expression: Expression,
    scope: Mapping[str, str],
    variables: dict[str, str],
    literals: list[Literal],
) -> None:
    """Collect all quantified variables (renamed apart) and the literals of a conjunction."""
    if isinstance(expression, str) or not expression:
        raise DataError(f"expected a goal in parentheses, got {expression!r}")
    head, rest = expression[0], expression[1:]
    if head == "and":
        for part in rest:
            _flatten(part, scope, variables, literals)
    elif head == "exists" and len(rest) == 2:
        inner = dict(scope)
        for name, kind in parse_variables(rest[0]):
            inner[name] = f"{name}#{len(variables)}"
            variables[inner[name]] = kind
        _flatten(rest[1], inner, variables, literals)
    elif head == "not" and len(rest) == 1:
        literals.append(_literal(rest[0], scope, positive=False))
    elif head in {"or", "not", "exists", "forall", "imply", "when"}:
        raise DataError(f"the engine does not evaluate goals with {head!r} of this shape")
    else:
        literals.append(_literal(expression, scope, positive=True))


def _literal(expression: Expression, scope: Mapping[str, str], *, positive: bool) -> Literal:
    if isinstance(expression, str) or not all(isinstance(part, str) for part in expression):
        raise DataError(f"expected a fact in the goal, got {expression!r}")
    name, *arguments = [str(part) for part in expression]
    unknown = [a for a in arguments if a.startswith("?") and a not in scope]
    if unknown or not any(a.startswith("?") for a in arguments):
        raise DataError(f"expected a fact over quantified variables in the goal, got {expression}")
    return Literal(name, tuple(scope.get(a, a) for a in arguments), positive)


def _slot(argument: str, slots: Mapping[str, int]) -> int:
    if argument not in slots:
        raise DataError(f"the engine does not evaluate goals about the constant {argument!r}")
    return slots[argument]


def _substitute(literal: Literal, names: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(names.get(a, a) for a in literal.arguments)


def _negate(check: Check) -> Check:
    return lambda world, bound: not check(world, bound)


def _equality(literal: Literal, slots: Mapping[str, int]) -> Check:
    left, right = (_slot(a, slots) for a in literal.arguments)
    positive = literal.positive
    return lambda world, bound: (bound[left] == bound[right]) == positive


def _narrowing(
    literal: Literal, name: str, slots: Mapping[str, int]
) -> Callable[[World, Binding], Iterable[int]] | None:
    """Return a function that gives the few values for which a literal can hold, if there is one."""
    if not literal.positive or literal.arguments[-1] != name:
        return None
    if literal.predicate == "inreceptacle":
        object_slot = slots[literal.arguments[0]]
        return lambda world, bound: world.inside[bound[object_slot]]
    if literal.predicate == "holds":
        return lambda world, bound: (world.held,)
    if literal.predicate == "atlocation":
        return lambda world, bound: (world.location,)
    return None


def _search_order(variables: Mapping[str, str], literals: Sequence[Literal]) -> list[str]:
    """Order the variables so that a receptacle follows the object that must be inside it."""
    order: list[str] = []
    remaining = list(variables)
    while remaining:
        chosen = next(
            (
                literal.arguments[1]
                for literal in literals
                if literal.predicate == "inreceptacle"
                and literal.positive
                and literal.arguments[0] in order
                and literal.arguments[1] in remaining
            ),
            next((name for name in remaining if variables[name] == "object"), remaining[0]),
        )
        order.append(chosen)
        remaining.remove(chosen)
    return order


def _relation(
    literal: Literal,
    facts: Mapping[str, set[tuple[str, ...]]],
    slots: Mapping[str, int],
    variables: Mapping[str, str],
    index: Mapping[str, Mapping[str, int]],
) -> Check:
    """Check a constant relation between two or more variables."""
    places = [i for i, a in enumerate(literal.arguments) if a.startswith("?")]
    kinds = [variables[literal.arguments[i]] for i in places]
    rows = {
        tuple(index[kind].get(row[i], -1) for i, kind in zip(places, kinds, strict=True))
        for row in facts[literal.predicate]
        if all(a.startswith("?") or a == row[i] for i, a in enumerate(literal.arguments))
    }
    bound_slots = [slots[literal.arguments[i]] for i in places]
    positive = literal.positive
    return lambda world, bound: (tuple(bound[s] for s in bound_slots) in rows) == positive
