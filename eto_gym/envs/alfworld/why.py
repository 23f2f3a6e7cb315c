"""Why nothing happened, from what an agent has seen: the helpful feedback of ALFWorld."""

from __future__ import annotations

from collections.abc import Sequence

from eto_gym.envs.alfworld.players.beliefs import NOTHING_HAPPENS, Beliefs, base
from eto_gym.history import Exchange
from eto_gym.prompt import nearest, shown

_JOINTS = {
    "take": (" from ",),
    "put": (" in/on ", " in ", " on "),
    "move": (" to ",),
    "heat": (" with ",),
    "cool": (" with ",),
    "clean": (" with ",),
}
"""What stands between the thing and the place that an action names."""

_APPLIANCES = {"heat": "microwave", "cool": "fridge", "clean": "sinkbasin"}
_LONGEST = 200  # characters of an action that can be one
_NAMED = 12  # places that are named at most


def explain(
    action: str, observation: str, first: str, seen: Sequence[Exchange], *, verb: str
) -> str:
    """Return why an action came to nothing; "" where it did not, or the agent cannot know.

    Args:
        action: The action.
        observation: The engine's answer to it.
        first: The first observation.
        seen: What was done and answered before.
        verb: How the game calls leaving a thing somewhere: "put" or "move".

    Example:
        >>> first = "Looking quickly around you, you see a shelf 1. Your task is to: find a mug."
        >>> explain("take mug 1 from shelf 1", "Nothing happens.", first, (), verb="put")
        'You are not at shelf 1: go to shelf 1 first.'
    """
    if observation.strip() != NOTHING_HAPPENS:
        return ""
    known = Beliefs()
    known.update(None, first)
    for exchange in seen:
        if exchange.action is not None:
            known.update(exchange.action.strip(), exchange.observation)
    wanted = action.strip()
    name, _, rest = wanted.partition(" ")
    parts = _parts(name, rest) if len(wanted) <= _LONGEST else None
    if parts is None or name == ("move" if verb == "put" else "put"):
        return f"{shown(wanted)} is no action here. {_actions(verb)}"
    return _reason(known, name, *parts)


def _parts(name: str, rest: str) -> tuple[str | None, str | None] | None:
    """Return the thing and the place that an action names; None where it has the form of none."""
    if name == "go" and rest.startswith("to "):
        return None, rest.removeprefix("to ")
    if name in ("open", "close") and rest:
        return None, rest
    if name in ("use", "examine") and rest:
        return rest, None
    for joint in _JOINTS.get(name, ()):
        thing, _, place = rest.partition(joint)
        if thing and place:
            return thing, place
    return None


def _reason(known: Beliefs, name: str, thing: str | None, place: str | None) -> str:
    if place is not None:
        if place not in known.receptacles:
            near = nearest(place, known.receptacles) or known.receptacles[:_NAMED]
            return f"You have seen no {place} here. There is: {', '.join(near)}."
        if name == "go":
            return f"You are at {place} already." if known.is_here(place) else ""
        if not known.is_here(place):
            return f"You are not at {place}: go to {place} first."
    if name in ("open", "close") and place is not None:
        return _of_door(known, name, place)
    if name == "take" and place is not None and thing is not None:
        return _of_taking(known, thing, place)
    if name in ("put", "move", *_APPLIANCES) and thing is not None and place is not None:
        return _of_holding(known, name, thing, place)
    near_by = [*known.contents.get(known.here or "", ()), known.holding or "", known.here or ""]
    if thing not in near_by:
        where = f"at {known.here}" if known.here else "where you are"
        return f"You have seen no {thing} {where}, and you do not hold it."
    return f"The {thing} is nothing that one can use." if name == "use" else ""


def _of_door(known: Beliefs, name: str, place: str) -> str:
    if name == "open" and place in known.opened:
        return f"The {place} is open already."
    if name == "close" and place in known.closed:
        return f"The {place} is closed already."
    return f"The {place} is nothing that one can {name}."


def _of_taking(known: Beliefs, thing: str, place: str) -> str:
    if known.holding is not None:
        return f"You hold {known.holding} already: leave it somewhere first."
    if place in known.closed:
        return f"The {place} is closed: open it first."
    there = known.contents.get(place)
    if there is not None and thing not in there:
        listed = ", ".join(there) or "nothing"
        return f"You have seen no {thing} in or on {place}, but {listed}."
    return ""


def _of_holding(known: Beliefs, name: str, thing: str, place: str) -> str:
    if known.holding != thing:
        held = f"You hold {known.holding}" if known.holding else "You hold nothing"
        return f"You do not hold {thing}. {held}."
    wanted = _APPLIANCES.get(name)
    if wanted is not None and base(place) != wanted:
        return f"One cannot {name} things with the {place}: that takes a {wanted}."
    if wanted is None and place in known.closed:
        return f"The {place} is closed: open it first."
    return f"The {thing} does not belong in or on the {place}." if wanted is None else ""


def _actions(verb: str) -> str:
    leave = "put X in/on Y" if verb == "put" else "move X to Y"
    return (
        f"The actions are: go to X, take X from Y, {leave}, open X, close X, use X, examine X, "
        "heat X with Y, cool X with Y, clean X with Y, inventory, look."
    )
