"""Why no action matched, from what an agent has seen: the helpful feedback of ScienceWorld."""

from __future__ import annotations

import re
from collections.abc import Sequence

from eto_gym.envs.scienceworld.recap import Memory
from eto_gym.history import Exchange
from eto_gym.prompt import nearest, shown

_NO_MATCH = "No known action matches that input"
_FORMS = (
    *("open X", "close X", "activate X", "deactivate X", "connect X to Y", "disconnect X"),
    *("use X", "use X on Y", "look around", "look at X", "look in X", "read X", "move X to Y"),
    *("pick up X", "put down X", "pour X into Y", "dunk X into Y", "mix X", "go to X"),
    *("teleport to X", "eat X", "flush X", "focus on X", "wait", "wait1", "task", "inventory"),
)
_LONG_FIRST = sorted(_FORMS, key=lambda form: "Y" not in form)
_LONGEST = 200  # characters of an action that can be one
_ALIKE = 0.75  # what is less alike is another thing, not a slip
_SMALL = frozenset(("a", "an", "the", "in", "of", "on", "to"))


def explain(action: str, observation: str, first: str, seen: Sequence[Exchange]) -> str:
    """Return why an action came to nothing; "" where it did not, or the agent cannot know.

    Args:
        action: The action.
        observation: The engine's answer to it.
        first: The first observation.
        seen: What was done and answered before.

    Example:
        >>> explain("jump", "No known action matches that input.", "", ())[:29]
        "'jump' is no action. The acti"
    """
    if not observation.startswith(_NO_MATCH):
        return ""
    wanted = " ".join(action.split())
    names = _names(wanted) if len(wanted) <= _LONGEST else None
    if names is None:
        return f"{shown(wanted)} is no action. The actions are: {', '.join(_FORMS)}."
    texts = [first, *(exchange.observation for exchange in seen)]
    words = set(re.findall(r"\w+", " ".join(texts).lower()))
    for name in names:
        unknown = _unseen(name, words)
        if unknown:
            near = nearest(unknown[0], sorted(words), count=1, likeness=_ALIKE)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            return f"You have seen no {name} so far.{hint}"
    known = Memory.of(first, seen)
    return (
        f"The form of the action is right, but not with {' and '.join(names)} in the {known.place}:"
        " what it names must be here, or carried, and the action must suit it."
    )


def _names(wanted: str) -> tuple[str, ...] | None:
    """Return what an action names; None where it has the form of none."""
    return next((names for form in _LONG_FIRST if (names := _fit(form, wanted)) is not None), None)


def _fit(form: str, wanted: str) -> tuple[str, ...] | None:
    head, named, rest = form.partition("X")
    if not named:
        return () if wanted == form else None
    inner = wanted.removeprefix(head)
    joint, second, _ = rest.partition("Y")
    if inner == wanted or not inner:
        return None
    if not second:
        return (inner,)
    thing, _, place = inner.partition(joint)
    return (thing, place) if thing and place else None


def _unseen(name: str, words: set[str]) -> list[str]:
    """List the words of a name that were read nowhere."""
    return [w for w in re.findall(r"\w+", name.lower()) if w not in _SMALL and w not in words]
