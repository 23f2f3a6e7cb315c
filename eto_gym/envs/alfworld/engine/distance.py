"""Counts the steps from a state of a game to its goal, exactly, without a search through states.

All walks take one step, doors stay open once opened, and the agent carries one thing. So a shortest
play is a short list of visits, and what it costs is known once they are chosen:

    steps = what is done (take, put, treat, switch on) + changes of place + doors found closed

For each choice of things and receptacles that the goal leaves open the visits follow: put away what
is in the hand, fetch the thing, treat it, bring it where it belongs. The least of all choices is
the answer. Tests compare it with an exhaustive search.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from typing import NamedTuple

from eto_gym.envs.alfworld.engine.engine import Playthrough
from eto_gym.envs.alfworld.engine.game import Game
from eto_gym.envs.alfworld.engine.goal import Literal

_TREATED = {"ishot": "heat", "iscool": "cool", "isclean": "clean"}
_CONDITIONS = {"heat": "hot", "cool": "cool", "clean": "clean"}


@dataclass(frozen=True, slots=True)
class Errand:
    """A goal to bring things: `count` different ones into one receptacle, each treated in a way.

    Attributes:
        count: How many things.
        things: What they may be.
        targets: Where they may be brought.
        treatment: "heat", "cool", "clean", or None.
    """

    count: int
    things: frozenset[int]
    targets: frozenset[int]
    treatment: str | None


@dataclass(frozen=True, slots=True)
class Inspection:
    """A goal to hold a thing where a lamp is that was switched on.

    Attributes:
        things: What may be held.
        lamps: Which lamps will do; none of them can be carried.
        stands: Receptacles that a lamp may stand on.
    """

    things: frozenset[int]
    lamps: frozenset[int]
    stands: frozenset[int]


def steps_to_goal(episode: Playthrough) -> int | None:
    """Return the least number of steps that reach the goal; None where none do, or is not known.

    The goals of all six official types of tasks are known.
    """
    if episode.won:
        return 0
    kind = read_goal(episode.game)
    if isinstance(kind, Errand):
        return min(_Search(episode, kind.things, kind.treatment).errand(kind), default=None)
    if isinstance(kind, Inspection):
        return min(_Search(episode, kind.things, None).inspection(kind), default=None)
    return None


def goal_share(episode: Playthrough) -> float:
    """Return which share of the goal's parts is reached, in 0..1; 1.0 only when it is reached.

    The parts are, of each thing: it was obtained (it is held, treated or delivered), it is treated
    where that is asked for, it is delivered. To look at a thing by a lamp: the lamp is on, the
    thing is held, and it is held where the lamp is.
    """
    if episode.won:
        return 1.0
    kind = read_goal(episode.game)
    if isinstance(kind, Errand):
        parts = 3 if kind.treatment else 2
        best = max(
            (
                sum(sorted((_parts(episode, kind, o, r) for o in kind.things))[-kind.count :])
                for r in kind.targets
            ),
            default=0,
        )
        return best / (parts * kind.count)
    if isinstance(kind, Inspection):
        return (bool(kind.lamps & episode.toggled) + (episode.held in kind.things)) / 3
    return 0.0


@lru_cache(maxsize=512)
def read_goal(game: Game) -> Errand | Inspection | None:
    """Say what a game's goal asks for; None where it is of no official type."""
    goal = game.goal
    domains = {name: values for name, (_, values) in goal.domains.items()}
    objects = [name for name, (kind, _) in goal.domains.items() if kind == "object"]
    targets = [name for name, (kind, _) in goal.domains.items() if kind == "receptacle"]
    if len(targets) != 1 or not objects:
        return None
    facts = set(goal.literals)
    (target,) = targets
    if (lamp := _lamp(game, facts, objects, target)) is not None:
        (thing,) = (name for name in objects if name != lamp)
        return Inspection(domains[thing], domains[lamp], domains[target])
    inside = {Literal("inreceptacle", (o, target), True) for o in objects}
    apart = {literal for literal in facts if literal.predicate == "=" and not literal.positive}
    states = facts - inside - apart
    if not inside <= facts or len({domains[o] for o in objects}) != 1:
        return None
    if len(objects) == 1 and not apart and len(states) <= 1:
        treatments = [_TREATED.get(fact.predicate) for fact in states if fact.positive]
        if len(treatments) == len(states) and None not in treatments:
            return Errand(1, domains[objects[0]], domains[target], next(iter(treatments), None))
    if len(objects) == 2 and len(apart) == 1 and not states:
        return Errand(2, domains[objects[0]], domains[target], None)
    return None


def _lamp(game: Game, facts: set[Literal], objects: Sequence[str], target: str) -> str | None:
    """Return the variable of the lamp, if the goal is to look at a thing by one."""
    lamps = [fact.arguments[0] for fact in facts if fact.predicate == "istoggled"]
    if len(lamps) != 1 or len(objects) != 2 or len(facts) != 5:
        return None
    (lamp,) = lamps
    if game.goal.domains[lamp][1] & game.pickupable or not all(fact.positive for fact in facts):
        return None
    rest = {fact.predicate: fact.arguments for fact in facts}
    if set(rest) != {"istoggled", "inreceptacle", "receptacleatlocation", "atlocation", "holds"}:
        return None
    fits = (
        rest["inreceptacle"] == (lamp, target)
        and rest["receptacleatlocation"] == (target, rest["atlocation"][1])
        and rest["holds"][1] in objects
        and rest["holds"][1] != lamp
    )
    return lamp if fits else None


# --- whether things are done --------------------------------------------------------------------


def _is_treated(episode: Playthrough, treatment: str | None, o: int) -> bool:
    return treatment is None or o in getattr(episode, _CONDITIONS[treatment])


def _is_done(episode: Playthrough, errand: Errand, o: int, r: int) -> bool:
    return r in episode.inside[o] and _is_treated(episode, errand.treatment, o)


def _parts(episode: Playthrough, errand: Errand, o: int, r: int) -> int:
    if _is_done(episode, errand, o, r):
        return 3 if errand.treatment else 2
    treated = errand.treatment is not None and _is_treated(episode, errand.treatment, o)
    return treated + (treated or o == episode.held)


# --- the choices that are left open -------------------------------------------------------------


class _Way(NamedTuple):
    """A part of a play: its steps without doors, where it ends, what must be open for it."""

    steps: int
    place: int
    opened: tuple[int, ...]
    source: int = -1
    """Where the thing in the hand was taken from; -1: it was in the hand at the start."""


class _Search:
    """The choices of visits from one state. Where some differ in nothing that counts, one is tried.

    Receptacles count as the same that are away from all places a play passes by anyway, hold none
    of the things, and are both open or both closed.
    """

    def __init__(self, episode: Playthrough, things: Iterable[int], treatment: str | None) -> None:
        self.episode = episode
        self.game = episode.game
        self.treatment = treatment
        self.tools: set[int] = set()
        self.suited: frozenset[int] = frozenset()
        if treatment is not None:
            appliances, self.suited = self.game.appliances[treatment]
            self.tools = {self.game.place[tool] for tool in appliances}
        self._sources = {r for o in things for r in episode.inside[o]}
        self._near = {self.game.place[r] for r in self._sources} | self.tools | {episode.location}

    def errand(self, errand: Errand) -> Iterator[int]:
        """Yield what each choice costs of things, and of where to bring them."""
        held = self.episode.held
        able = [o for o in errand.things if o == held or o in self.game.pickupable]
        targets = self._distinct(errand.targets, able)
        drops = self._drops(targets)
        for r in targets:
            rest = [o for o in able if not _is_done(self.episode, errand, o, r)]
            missing = errand.count - sum(
                _is_done(self.episode, errand, o, r) for o in errand.things
            )
            if held in rest:
                # What is in the hand comes first: put away, it would have to be fetched again.
                rest.remove(held)
                for more in permutations(rest, missing - 1):
                    yield from self._bring((held, *more), r, drops)
            for things in permutations(rest, missing):
                yield from self._bring(things, r, drops)

    def inspection(self, inspection: Inspection) -> Iterator[int]:
        """Yield what each choice costs of a thing and a lamp."""
        episode, game = self.episode, self.game
        drops = self._drops(())
        for lamp in inspection.lamps:
            switch = lamp not in episode.toggled
            for stand in inspection.stands & set(episode.inside[lamp]):
                there = game.place[stand]
                for o in inspection.things:
                    if o == episode.held:
                        yield switch + (there != episode.location)
                    elif o in game.pickupable:
                        start = [_Way(0, episode.location, ())]
                        for way in self._fetch(start, o, drops):
                            walk = there != way.place
                            yield way.steps + switch + walk + self._doors(way.opened)

    def _bring(self, things: Sequence[int], r: int, drops: Sequence[int]) -> Iterator[int]:
        """Yield the costs of bringing things into a receptacle, one after the other."""
        episode, game = self.episode, self.game
        ways = [_Way(0, episode.location, ())]
        for i, o in enumerate(things):
            if i or o != episode.held:
                ways = list(self._fetch(ways, o, () if i else drops, empty=i > 0))
            treated = _is_treated(episode, self.treatment, o)
            if not treated and o not in self.suited:
                return
            ends = []
            for steps, place, opened, source in ways:
                # Taken out of one receptacle, a thing may still count as being in another.
                stays = r in episode.inside[o] and r != source
                if not stays and r not in game.accepts[o]:
                    continue
                for tool in self.tools if not treated else (place,):
                    spent = steps if treated else steps + 1 + (tool != place)
                    if stays:
                        ends.append(_Way(spent, tool, opened))
                    else:
                        spent += 1 + (game.place[r] != tool)
                        ends.append(_Way(spent, game.place[r], (*opened, r)))
            ways = ends
        for way in ways:
            yield way.steps + self._doors(way.opened)

    def _fetch(
        self, ways: Iterable[_Way], o: int, drops: Sequence[int], *, empty: bool = False
    ) -> Iterator[_Way]:
        """Yield the ways of taking a thing, after putting away what is in the hand, if anything."""
        place = self.game.place
        for steps, at, opened, _ in ways:
            for source in self.episode.inside[o]:
                there = place[source]
                if empty or self.episode.held < 0:
                    yield _Way(steps + 1 + (there != at), there, (*opened, source), source)
                    continue
                for d in drops:
                    walk = (place[d] != at) + (there != place[d])
                    yield _Way(steps + 2 + walk, there, (*opened, d, source), source)

    def _drops(self, targets: Iterable[int]) -> list[int]:
        """List where what is in the hand may be put away."""
        held = self.episode.held
        if held < 0:
            return []
        accepting = self.game.accepts[held]
        return self._distinct(accepting, (), keep=accepting & frozenset(targets))

    def _distinct(
        self,
        receptacles: Iterable[int],
        things: Iterable[int],
        keep: frozenset[int] = frozenset(),
    ) -> list[int]:
        """Leave out receptacles that are as others are."""
        chosen: dict[object, int] = {}
        for r in sorted(receptacles):
            near = self.game.place[r] in self._near or r in self._sources or r in keep
            accepted = frozenset(o for o in things if r in self.game.accepts[o])
            chosen.setdefault(r if near else (self._doors((r,)), accepted), r)
        return list(chosen.values())

    def _doors(self, receptacles: Iterable[int]) -> int:
        """Count the closed doors among receptacles."""
        openable, opened = self.game.openable, self.episode.opened
        return sum(r in openable and r not in opened for r in set(receptacles))
