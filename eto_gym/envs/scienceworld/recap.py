"""What an agent has seen of the world so far, in a few lines: the state block of ScienceWorld."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from eto_gym.history import Exchange, Recap
from eto_gym.prompt import without_reason

# Names have a limit, so that a text that repeats a beginning is not read to its end from each.
_TASK = re.compile(r"Your task is to ([^\n]*)")
_ROOM = re.compile(
    r"This (?:room|outside location) is called the ([^.\n]{1,200})\. "
    r"(?:In it, you|Here you) see:[ ]*\n"
    r"((?:\t[^\n]*\n?)*)"
)
_ARRIVED = re.compile(r"^You (?:move|teleport) to the ([^.\n]+)\.")
_MOVED = re.compile(r"^You move the ([^.\n]{1,500}) to the ([^.\n]{1,500})\.")
_CARRIED = re.compile(r"^In your inventory, you see:[ ]*\n((?:\t[^\n]*\n?)*)")
_INSIDE = re.compile(r"^Inside the ([^.\n]+) is:[ ]*\n((?:\t[^\n]*\n?)*)")
_FOCUSED = re.compile(r"^You focus on the ([^.\n]+)\.")
_MEASURED = re.compile(r"measures a temperature of (-?\d+(?:\.\d+)?) degrees")
_ARTICLE = re.compile(r"^(?:an?|the) (?:substance called )?")
_ALWAYS_THERE = ("agent", "air")
_LONGEST = 240  # characters of what was found in one place
_READINGS = 3


@dataclass(slots=True)
class Memory:
    """What the texts have told so far."""

    place: str = ""
    carried: list[str] = field(default_factory=list)
    found: dict[str, str] = field(default_factory=dict)
    focused: list[str] = field(default_factory=list)
    readings: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, first: str, exchanges: Sequence[Exchange]) -> Memory:
        """Return the memory of an episode."""
        known = cls()
        known.update("", first)
        for exchange in exchanges:
            if exchange.action is not None:
                known.update(exchange.action, without_reason(exchange.observation))
        return known

    def update(self, action: str, observation: str) -> None:
        """Take in an observation and the action that it answers ("" for the first one)."""
        if room := _ROOM.search(observation):
            self.place = room[1]
            self.found[room[1]] = "; ".join(_items(room[2]))
        if arrived := _ARRIVED.match(observation):
            self.place = arrived[1]
        elif moved := _MOVED.match(observation):
            self._move(*moved.groups())
        elif carried := _CARRIED.match(observation):
            self.carried = [_name(item) for item in _items(carried[1])]
        elif inside := _INSIDE.match(observation):
            self.found[f"{inside[1]} ({self.place})"] = "; ".join(_items(inside[2]))
        elif focused := _FOCUSED.match(observation):
            self.focused.append(focused[1])
        elif measured := _MEASURED.search(observation):
            self.readings.append(f"{_short(action, 80)}: {measured[1]} degrees")

    def _move(self, thing: str, to: str) -> None:
        if to == "inventory":
            if thing not in self.carried:
                self.carried.append(thing)
        elif thing in self.carried:
            self.carried.remove(thing)


class WorldRecap(Recap):
    """Writes the task, the place, what is carried and what was found where."""

    def __init__(self, first: str) -> None:
        """Start with the first observation."""
        super().__init__(first)
        task = _TASK.search(first)
        self._task = task[1] if task else ""
        self._known = Memory()
        self._known.update("", first)

    def _update(self, action: str, observation: str) -> None:
        self._known.update(action, observation)

    def _write(self) -> str:
        known = self._known
        lines = [
            f"Task: {self._task}",
            f"You are in: {known.place}",
            f"You carry: {', '.join(known.carried) or 'nothing that you know of'}",
        ]
        if known.focused:
            lines.append(f"Focused on: {', '.join(known.focused)}")
        if known.readings:
            lines.append(f"Last measured: {'; '.join(known.readings[-_READINGS:])}")
        lines += [
            f"Seen in {place}: {_short(items)}" for place, items in known.found.items() if items
        ]
        return "\n".join(["So far:", *lines])


def _items(listing: str) -> list[str]:
    """Return the lines of a listing without their articles."""
    items = [_ARTICLE.sub("", line.strip()).rstrip(". ") for line in listing.splitlines()]
    return [item for item in items if item and item not in _ALWAYS_THERE]


def _name(item: str) -> str:
    return re.split(r"[,(.]", item, maxsplit=1)[0].strip()


def _short(text: str, longest: int = _LONGEST) -> str:
    return text if len(text) <= longest else text[: longest - 3] + "..."
