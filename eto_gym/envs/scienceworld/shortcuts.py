"""Solutions of the short tasks, found by trying a plan or two instead of asking the engine.

The engine's own solution of a task takes it seconds to half a minute to work out, whatever the
task. Those of finding a thing follow one pattern: go where such things are, look around, focus on
one, take it, and put it into the box. A plan counts only when its replay reaches score 1.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from eto_gym.envs.scienceworld.session import EngineSession

PLACES = {
    "find-animal": ("outside",),
    "find-living-thing": ("outside", "greenhouse"),
    "find-non-living-thing": ("kitchen", "workshop"),
}
"""Task name -> where to look for what it asks for, the likeliest place first."""

TRIES = 8
"""Plans that are tried for a task before it is left to the engine."""

_BOX = re.compile(r"move it to the (\w{1,40} box) in the ([\w ]{1,60})\.")
_LISTED = re.compile(r"^\t(?:an? )?([a-zA-Z][\w ]*?)(?:\.| \(|, which|$)", re.MULTILINE)
_NOT_TAKEN = ("agent", "substance", "ground", "air", "door", "fountain", "box")
_ALIVE = re.compile(r"\b(egg|baby|hatchling|juvenile|adult|tree|plant|seed|pupa|caterpillar)\b")


def find_shortcut(
    session: EngineSession, task: str, variation: int, simplifications: str
) -> tuple[str, ...]:
    """Return actions that solve a task, or none where no plan of ours does.

    Args:
        session: An engine; where its episode ends up is left open.
        task: Task name.
        variation: Its variation.
        simplifications: As the engine takes them; teleporting must be among them.

    Raises:
        EngineError: The engine failed.
    """
    tried = 0
    for place in PLACES.get(task, ()):
        start = (f"teleport to {place}", "look around")
        session.load(task, variation, simplifications)
        goal = _BOX.search(session.task_description())
        if goal is None:
            return ()
        box, room = goal.groups()
        seen = [session.step(action).observation for action in start][-1]
        for index, thing in enumerate(_things(seen, task)):
            if tried == TRIES:
                return ()
            tried += 1
            if index:  # the first goes on from where it was seen
                session.load(task, variation, simplifications)
                for action in start:
                    session.step(action)
            rest = tuple(_deliver(thing, box, room, place))
            if _succeeds(session, rest):
                return (*start, *rest)
    return ()


def _deliver(thing: str, box: str, room: str, place: str) -> Iterator[str]:
    """Yield what brings a thing from a place into the box, once it is seen."""
    yield f"focus on {thing}"
    if place != room:
        yield f"pick up {thing}"
        yield f"teleport to {room}"
    yield f"move {thing} to {box}"


def _things(seen: str, task: str) -> list[str]:
    """Return the listed things that may be what is asked for, in the order of the list."""
    names = [name.strip() for name in _LISTED.findall(seen.partition("You also see")[0])]
    fit = [name for name in names if not name.startswith(_NOT_TAKEN)]
    if task == "find-non-living-thing":
        return [name for name in fit if not _ALIVE.search(name)]
    return [name for name in fit if _ALIVE.search(name)] or fit


def _succeeds(session: EngineSession, actions: tuple[str, ...]) -> bool:
    """Take actions; tell whether the last of them, and none before, ends the task with success."""
    for action in actions:
        result = session.step(action)
        if result.error is not None or result.completed or result.score < 0:
            return result.score >= 1.0 and action == actions[-1]
    return False
