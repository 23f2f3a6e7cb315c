"""Parses game files of the ALFRED household domain into immutable, shareable games."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from eto_gym.envs.alfworld.engine.goal import Goal, compile_goal
from eto_gym.envs.alfworld.engine.pddl import Problem, Rules, parse_domain, parse_problem
from eto_gym.envs.alfworld.engine.wording import (
    MOVE_WORDING,
    PUT_WORDING,
    ActionGrammar,
    Wording,
    parse_grammar,
)
from eto_gym.errors import DataError, check_choice

BANNER = "-= Welcome to TextWorld, ALFRED! =-"

Action: TypeAlias = tuple[str, int, int]
"""What a command does: its kind and up to two indices (-1 where there is none)."""

_NUMBERED = ("object", "receptacle", "location")

_KNOWN_FACTS = frozenset(
    {
        "atlocation",
        "receptacleatlocation",
        "objectatlocation",
        "openable",
        "opened",
        "inreceptacle",
        "isreceptacleobject",
        "inreceptacleobject",
        "isreceptacleobjectfull",
        "wasinreceptacle",
        "checked",
        "examined",
        "receptacletype",
        "cancontain",
        "objecttype",
        "holds",
        "holdsany",
        "holdsanyreceptacleobject",
        "full",
        "isclean",
        "cleanable",
        "ishot",
        "heatable",
        "iscool",
        "coolable",
        "pickupable",
        "moveable",
        "toggleable",
        "ison",
        "istoggled",
        "sliceable",
        "issliced",
        "distance",
    }
)


@dataclass(frozen=True, slots=True, eq=False)
class Game:
    """A game: the house, what can be done in it, how it starts, and what is to be reached.

    Objects, receptacles and locations are numbered in the order of their ids, which is the order
    in which the texts list them. Every tuple below is indexed by these numbers.

    Attributes:
        task: The task line ("Your task is to: ...").
        wording: Which words the game uses.
        objects: Names of the objects ("mug 1").
        receptacles: Names of the receptacles ("countertop 2").
        locations: Names of the locations ("loc 7").
        place: Location of each receptacle.
        residents: The receptacles at each location.
        goal: The compiled goal.
    """

    task: str
    wording: Wording
    objects: tuple[str, ...]
    receptacles: tuple[str, ...]
    locations: tuple[str, ...]
    place: tuple[int, ...]
    residents: tuple[tuple[int, ...], ...]
    goal: Goal
    openable: frozenset[int]
    pickupable: frozenset[int]
    toggleable: frozenset[int]
    sliceable: tuple[int, ...]
    knives: frozenset[int]
    accepts: tuple[frozenset[int], ...]
    """Receptacles that may contain each object."""
    appliances: Mapping[str, tuple[frozenset[int], frozenset[int]]]
    """"clean", "cool" and "heat" -> (receptacles that do it, objects that it can be done to)."""
    holders: Mapping[int, tuple[str, ...]]
    """Objects that hold other objects -> the names of those."""
    start: Mapping[str, Any]
    """Values of an episode's attributes at the start."""
    intro: str
    travel: dict[int, dict[str, Action]] = field(default_factory=dict)
    """Location -> the `go to` commands there; filled when a location is first left."""

    def travel_from(self, location: int) -> dict[str, Action]:
        """Return the `go to` commands at a location, sorted."""
        commands = self.travel.get(location)
        if commands is None:
            commands = self.travel[location] = {
                f"go to {name}": ("go", r, -1)
                for name, r in sorted((name, r) for r, name in enumerate(self.receptacles))
                if self.place[r] != location
            }
        return commands


def parse_game(data: str | Mapping[str, Any], *, action_grammar: ActionGrammar = "auto") -> Game:
    """Parse the contents of a `game.tw-pddl` file.

    Args:
        data: The JSON text, or the object that it stands for.
        action_grammar: "auto" takes the wording from the game's grammar; "put" and "move" force
            that of the ETO era or that of alfworld 0.4.

    Raises:
        DataError: The contents are malformed, or ask for something that the engine does not know.
    """
    check_choice("action_grammar", action_grammar, ("auto", "put", "move"))
    if isinstance(data, str):
        try:
            data = json.loads(data)
        except (ValueError, RecursionError) as err:
            raise DataError(f"the game is not JSON: {err}") from err
    parts = []
    for key in ("pddl_domain", "grammar", "pddl_problem"):
        part = data.get(key) if isinstance(data, Mapping) else None
        if not isinstance(part, str):
            raise DataError(f"expected the game to hold a text {key!r}")
        parts.append(part)
    rules = parse_domain(parts[0])
    task, wording = parse_grammar(parts[1])
    if action_grammar == "put":
        wording = PUT_WORDING
    elif action_grammar == "move":
        wording = MOVE_WORDING
    elif not rules.has_help:
        wording = Wording(wording.verb, wording.arrive_at_receptacle, None)
    elif wording.help_text is None:
        raise DataError("the domain has an action 'help' that the grammar does not word")
    problem = parse_problem(parts[2])
    try:
        return _build_game(problem, rules, task, wording)
    except (KeyError, ValueError, IndexError, TypeError) as err:
        raise DataError(f"the PDDL problem states a malformed fact or goal: {err}") from err


@dataclass(frozen=True, slots=True)
class _Facts:
    """The facts of a problem, with what they are about as numbers.

    Attributes:
        rows: Predicate -> its argument tuples, which are ids.
        number: Id of an object, receptacle or location -> its number among those of its kind.
    """

    rows: Mapping[str, Sequence[tuple[str, ...]]]
    number: Mapping[str, int]

    def column(self, predicate: str, place: int = 0) -> list[int]:
        return [self.number[row[place]] for row in self.rows.get(predicate, ())]

    def pairs(self, predicate: str) -> list[tuple[int, int]]:
        return [(self.number[a], self.number[b]) for a, b in self.rows.get(predicate, ())]

    def types(self, predicate: str) -> dict[str, str]:
        """Return id -> type."""
        return {name: kind for name, kind in self.rows.get(predicate, ())}  # noqa: C416

    def of_type(self, predicate: str, types: Collection[str]) -> frozenset[int]:
        found = self.types(predicate).items()
        return frozenset(self.number[name] for name, kind in found if kind in types)


def _build_game(problem: Problem, rules: Rules, task: str, wording: Wording) -> Game:
    unknown = sorted(set(problem.facts) - _KNOWN_FACTS)
    if unknown:
        raise DataError(f"the PDDL problem states facts that the engine does not know: {unknown}")
    members = _members(problem)
    names = _display_names(name for group in members.values() for name in group)
    objects, receptacles, locations = (
        tuple(names[name] for name in members.get(kind, ())) for kind in _NUMBERED
    )
    facts = _Facts(
        problem.facts,
        {name: i for kind in _NUMBERED for i, name in enumerate(members.get(kind, ()))},
    )
    place = _functional(facts.pairs("receptacleatlocation"), len(receptacles))
    return Game(
        task=task,
        wording=wording,
        objects=objects,
        receptacles=receptacles,
        locations=locations,
        place=place,
        residents=_grouped([(at, r) for r, at in enumerate(place)], len(locations)),
        goal=compile_goal(problem.goal, members=members, static=problem.facts),
        openable=frozenset(facts.column("openable")),
        pickupable=frozenset(facts.column("pickupable")),
        toggleable=frozenset(facts.column("toggleable")),
        sliceable=tuple(sorted(set(facts.column("sliceable")))),
        knives=facts.of_type("objecttype", {"knifetype", "butterknifetype"}),
        accepts=_accepts(facts, members.get("object", ())),
        appliances={
            "clean": _appliance(facts, rules.clean_types, "cleanable"),
            "cool": _appliance(facts, {"fridgetype"}, "coolable"),
            "heat": _appliance(facts, {"microwavetype"}, "heatable"),
        },
        holders=_holders(facts, objects),
        start=_start(facts, len(objects), len(receptacles)),
        intro=f"{BANNER}\n\nYou are in the middle of a room. Looking quickly around you, you see "
        f"{list_things(receptacles)}.\n\n{task}",
    )


def _members(problem: Problem) -> dict[str, list[str]]:
    """Return type -> the ids of this type that the facts name, sorted."""
    rows = (row for name, rows in problem.facts.items() if name != "distance" for row in rows)
    members: dict[str, list[str]] = {}
    for name in sorted({name for row in rows for name in row}):
        kind = problem.types.get(name)
        if kind is None:
            raise DataError(f"the PDDL problem uses {name!r} without declaring it")
        members.setdefault(kind, []).append(name)
    return members


def _accepts(facts: _Facts, objects: Sequence[str]) -> tuple[frozenset[int], ...]:
    """Return, for each object's id, the receptacles that may contain it."""
    can_contain: dict[str, set[str]] = {}
    for receptacle_type, object_type in facts.rows.get("cancontain", ()):
        can_contain.setdefault(object_type, set()).add(receptacle_type)
    accepting = {
        kind: facts.of_type("receptacletype", types) for kind, types in can_contain.items()
    }
    types = facts.types("objecttype")
    nowhere: frozenset[int] = frozenset()
    return tuple(accepting.get(types.get(name, ""), nowhere) for name in objects)


def _appliance(
    facts: _Facts, types: Collection[str], able: str
) -> tuple[frozenset[int], frozenset[int]]:
    return facts.of_type("receptacletype", types), frozenset(facts.column(able))


def _holders(facts: _Facts, objects: Sequence[str]) -> dict[int, tuple[str, ...]]:
    """Return objects that hold others -> the names of those."""
    inner = sorted(facts.pairs("inreceptacleobject"))
    return {
        holder: tuple(objects[i] for i, outer in inner if outer == holder)
        for holder in facts.column("isreceptacleobject")
    }


def _start(facts: _Facts, objects: int, receptacles: int) -> dict[str, Any]:
    """Return what the facts say of the start, where there are so many objects and receptacles."""
    agent_at, held = facts.column("atlocation", 1), facts.column("holds", 1)
    if len(agent_at) != 1 or len(held) > 1:
        raise DataError("expected one agent, at one location, with at most one object in hand")
    contained = facts.pairs("inreceptacle")
    return {
        "location": agent_at[0],
        "held": held[0] if held else -1,
        "opened": frozenset(facts.column("opened")),
        "inside": _grouped(contained, objects),
        "contents": _grouped([(r, o) for o, r in contained], receptacles),
        "at": tuple(map(frozenset, _grouped(facts.pairs("objectatlocation"), objects))),
        **{
            name: frozenset(facts.column("is" + name))
            for name in ("clean", "hot", "cool", "sliced", "toggled")
        },
    }


def _display_names(ids: Iterable[str]) -> dict[str, str]:
    """Name the ids: sorted, and numbered downward per base name ("mug 2", then "mug 1")."""
    bases: dict[str, str] = {}
    left: dict[str, int] = {}
    for name in sorted(ids):
        base, bar, _ = name.partition("_bar_")
        if bar:
            base += "basin" if "basin" in name else ""
            left[base] = left.get(base, 0) + 1
        bases[name] = base if bar else ""
    names: dict[str, str] = {}
    for name, base in bases.items():
        names[name] = f"{base} {left[base]}" if base else f"{name} "
        if base:
            left[base] -= 1
    return names


def _functional(pairs: Sequence[tuple[int, int]], size: int) -> tuple[int, ...]:
    values = dict(pairs)
    if len(values) != len(set(pairs)) or len(values) != size:
        raise DataError("expected every receptacle to be at exactly one location")
    return tuple(values[i] for i in range(size))


def _grouped(pairs: Iterable[tuple[int, int]], size: int) -> tuple[tuple[int, ...], ...]:
    groups: list[set[int]] = [set() for _ in range(size)]
    for key, value in pairs:
        groups[key].add(value)
    return tuple(tuple(sorted(group)) for group in groups)


def enumerate_names(names: Sequence[str]) -> str:
    """Write "A, B, and C" as the official engine does (the comma also between two)."""
    if len(names) == 1:
        return names[0]
    return f"{', '.join(names[:-1])}, and {names[-1]}"


def list_things(names: Sequence[str]) -> str:
    """Write "a A, a B, and a C", or "nothing"."""
    return enumerate_names([f"a {name}" for name in names]) if names else "nothing"
