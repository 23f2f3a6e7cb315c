"""What a player knows of a house: everything here was read in the observations, nothing else."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from eto_gym.envs.alfworld.builtin.world import (
    CAN_CONTAIN,
    CLEANABLE,
    COOLABLE,
    HEATABLE,
    OPENABLE,
    PLACES,
    TOGGLEABLE,
)

_NAME = r"[a-z]+ \d+"
# A list ends at a full stop, or with its line: then no search for one can be in vain.
_ROOM = re.compile(r"Looking quickly around you, you see ((?:[^.\n]|\.(?=\S))*+)")
_TASK = re.compile(r"Your task is to: (.*)")
_LISTED = re.compile(rf"\ba ({_NAME})")
_ARRIVED = re.compile(r"You arrive at (loc \d+)\.")
_ON = re.compile(rf"On the ({_NAME}), you see ([^.\n]*+)")
_OPEN = re.compile(rf"The ({_NAME}) is open\. In it, you see ([^.\n]*+)")
_CLOSED = re.compile(rf"The ({_NAME}) is closed\.")
_SHUT = re.compile(rf"You close the ({_NAME})\.")
_TOOK = re.compile(rf"You pick up the ({_NAME}) from the ({_NAME})\.")
_LEFT = re.compile(rf"You (?:put|move) the ({_NAME}) (?:in/on|to) the ({_NAME})\.")
_TREATED = re.compile(rf"You (heat|cool|clean) the ({_NAME}) using the {_NAME}\.")
_LIT = re.compile(rf"You turn on the ({_NAME})\.")

NOTHING_HAPPENS = "Nothing happens."
_TYPES = {
    name.lower(): name
    for name in {*CAN_CONTAIN, *(kind for kinds in CAN_CONTAIN.values() for kind in kinds)}
}
_SUITABLE = {
    verb: frozenset(kind.lower() for kind in kinds)
    for verb, kinds in (
        ("take", frozenset().union(*CAN_CONTAIN.values())),
        ("use", TOGGLEABLE),
        ("heat", HEATABLE),
        ("cool", COOLABLE),
        ("clean", CLEANABLE),
    )
}
_LANDMARKS = (("fridge", "kitchen"), ("toilet", "bathroom"), ("bed", "bedroom"))


def base(name: str) -> str:
    """Return the kind in a name: "mug" of "mug 2"."""
    return name.rsplit(" ", 1)[0]


def accepts(receptacle: str, obj: str) -> bool:
    """Tell whether the object may be put in the receptacle, both given by name."""
    kinds = CAN_CONTAIN.get(_TYPES.get(base(receptacle), ""), frozenset())
    return _TYPES.get(base(obj), "") in kinds


def suits(verb: str, obj: str) -> bool:
    """Tell whether a verb ("take", "use", "heat", "cool", "clean") suits an object."""
    return base(obj) in _SUITABLE[verb]


def shares(room: str, kind: str) -> dict[str, float]:
    """Tell in which receptacle kinds objects of a kind are found in a room, in percent.

    Kinds that were never seen in this room take what is known from the other rooms; a receptacle
    kind that could hold the object but was not counted gets a small share.
    """
    name = _TYPES.get(kind, "")
    rows = (
        [PLACES[room][name]]
        if name in PLACES[room]
        else [row[name] for row in PLACES.values() if name in row]
    )
    found: Counter[str] = Counter()
    for row in rows:
        for place, share in row.items():
            found[place.lower()] += share
    result = {place: share / len(rows) for place, share in found.items()}
    for place, kinds in CAN_CONTAIN.items():
        if name in kinds:
            result.setdefault(place.lower(), 0.5)
    return result


@dataclass
class Beliefs:
    """A memory of one episode, filled by `update`.

    Attributes:
        task: The sentence that states the task.
        room: Kind of the room, guessed from its receptacles.
        receptacles: Their names, in the order of the first observation.
        contents: Receptacle -> the objects last seen in it; missing until it was looked into.
        closed: Receptacles that were seen closed and not opened since.
        opened: Receptacles that were seen open and not closed since.
        here: The receptacle that was last gone to.
        holding: The object in hand.
        states: Object -> "hot", "cool" and "clean" as far as they were brought about.
        lit: Lamps that were turned on.
        failed: Whether the last action was answered by "Nothing happens."
    """

    task: str = ""
    room: str = "living"
    receptacles: list[str] = field(default_factory=list)
    contents: dict[str, list[str]] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    opened: set[str] = field(default_factory=set)
    here: str | None = None
    holding: str | None = None
    states: dict[str, set[str]] = field(default_factory=dict)
    lit: set[str] = field(default_factory=set)
    failed: bool = False
    _spots: dict[str, str] = field(default_factory=dict)

    def update(self, action: str | None, observation: str) -> None:
        """Take in an observation and the action that it answers (None: the first one)."""
        if action is None:
            self._begin(observation)
            return
        self.failed = observation.strip() == NOTHING_HAPPENS
        if self.failed:
            self._learn_from_failure(action)
            return
        if action.startswith("go to "):
            self.here = action.removeprefix("go to ")
            arrived = _ARRIVED.search(observation)
            self._spots[self.here] = (
                arrived[1] if arrived else self._spots.get(self.here, self.here)
            )
        for pattern in (_ON, _OPEN):
            for name, listing in pattern.findall(observation):
                self.contents[name] = _LISTED.findall(listing)
                self.closed.discard(name)
                if pattern is _OPEN:
                    self.opened.add(name)
        for name in _CLOSED.findall(observation) + _SHUT.findall(observation):
            self.closed.add(name)
            self.opened.discard(name)
        if took := _TOOK.search(observation):
            self.holding = took[1]
            self._remove(*took.groups())
        if left := _LEFT.search(observation):
            self.holding = None
            self.contents.setdefault(left[2], []).append(left[1])
        if treated := _TREATED.search(observation):
            self._treat(*treated.groups())
        self.lit.update(_LIT.findall(observation))

    def is_here(self, receptacle: str) -> bool:
        """Tell whether the receptacle is known to be in reach."""
        if self.here is None:
            return False
        return receptacle == self.here or (
            receptacle in self._spots and self._spots[receptacle] == self._spots[self.here]
        )

    def of_kind(self, kind: str) -> list[str]:
        """List the receptacles of a kind."""
        return [name for name in self.receptacles if base(name) == kind]

    def may_be_closed(self, receptacle: str) -> bool:
        """Tell whether the receptacle is closed, or may be as far as known."""
        if receptacle in self.closed:
            return True
        kind = _TYPES.get(base(receptacle), "")
        return receptacle not in self.contents and kind in OPENABLE

    def where(self, kind: str) -> list[tuple[str, str]]:
        """List (object, receptacle) for the objects of a kind whose place is known."""
        return [
            (obj, receptacle)
            for receptacle in self.receptacles
            for obj in self.contents.get(receptacle, ())
            if base(obj) == kind
        ]

    def _begin(self, observation: str) -> None:
        seen = _ROOM.search(observation)
        task = _TASK.search(observation)
        self.receptacles = _LISTED.findall(seen[1]) if seen else []
        self.task = task[1].strip() if task else ""
        kinds = {base(name) for name in self.receptacles}
        self.room = next((room for mark, room in _LANDMARKS if mark in kinds), "living")

    def _learn_from_failure(self, action: str) -> None:
        verb, _, name = action.partition(" ")
        if action.startswith("go to "):
            # Only a receptacle at the agent's own spot cannot be gone to.
            name = action.removeprefix("go to ")
            if self.here is not None and name in self.receptacles:
                self._spots[name] = self._spots[self.here]
        elif verb == "open" and name in self.receptacles:
            self.closed.discard(name)
            self.contents.setdefault(name, [])

    def _remove(self, obj: str, receptacle: str) -> None:
        # A thing may be seen in two receptacles at once; it is in neither once it is taken.
        for objects in self.contents.values():
            if obj in objects:
                objects.remove(obj)

    def _treat(self, verb: str, obj: str) -> None:
        states = self.states.setdefault(obj, set())
        if verb == "clean":
            states.add("clean")
        else:
            states -= {"hot", "cool"}
            states.add("hot" if verb == "heat" else "cool")
