"""What an agent has seen of a house so far, in a few lines: the state block of ALFWorld."""

from __future__ import annotations

from collections.abc import Iterable

from eto_gym.envs.alfworld.players.beliefs import Beliefs
from eto_gym.history import WHOLE, Recap


class HouseRecap(Recap):
    r"""Writes where the agent is, what it holds, and what it has found where.

    Where the first observation could be read, all of it is told: the task, and every place of the
    room, those that were not looked at yet included. A number without a name before it belongs to
    the name before: "drawer 1, 2" are two drawers.

    Example:
        >>> from eto_gym.history import Exchange
        >>> recap = HouseRecap(
        ...     "You are in the middle of a room. Looking quickly around you, you see a drawer 2, "
        ...     "a drawer 1, and a shelf 1.\\n\\nYour task is to: find a mug."
        ... )
        >>> recap.add(Exchange("go to shelf 1", "On the shelf 1, you see a mug 1, and a mug 2."))
        >>> print(recap.block())
        All so far:
        Task: find a mug.
        At: shelf 1
        Held: nothing
        Found: shelf 1: mug 1, 2
        Not seen yet: drawer 2, 1
    """

    def __init__(self, first: str) -> None:
        """Start with the first observation."""
        super().__init__(first)
        self._known = Beliefs()
        self._known.update(None, first)

    def _update(self, action: str, observation: str) -> None:
        self._known.update(action.strip(), observation)

    def _write(self) -> str:
        known = self._known
        lines = [
            f"Task: {known.task}",
            f"At: {known.here or 'the middle of the room'}",
            f"Held: {known.holding or 'nothing'}",
        ]
        done = [f"{obj} ({', '.join(sorted(how))})" for obj, how in known.states.items()]
        if done:
            lines.append(f"Treated: {', '.join(done)}")
        if known.lit:
            lines.append(f"Turned on: {_named(sorted(known.lit))}")
        found = [f"{place}: {_named(objs)}" for place, objs in known.contents.items() if objs]
        if found:
            lines.append(f"Found: {'; '.join(found)}")
        looked_at = known.contents.keys() | known.closed
        for title, places in (
            ("Empty", [place for place, objs in known.contents.items() if not objs]),
            ("Closed", sorted(known.closed)),
            ("Not seen yet", [place for place in known.receptacles if place not in looked_at]),
        ):
            if places:
                lines.append(f"{title}: {_named(places)}")
        told = known.task and known.receptacles
        return "\n".join([WHOLE if told else "So far:", *lines])


def _named(names: Iterable[str]) -> str:
    """List names; of several of a kind, the kind is written once."""
    numbers: dict[str, list[str]] = {}
    for name in names:
        kind, _, number = name.rpartition(" ")
        numbers.setdefault(kind, []).append(number)
    return ", ".join(f"{kind} {', '.join(of_kind)}" for kind, of_kind in numbers.items())
