"""The wording of a game: which words its grammar uses for the few things that differ by version.

Official downloads of the ETO era say `put X in/on Y` and `You arrive at loc N.`; the grammar of
alfworld 0.4 says `move X to Y` and `You arrive at <receptacle>.`, and knows `help`. All other texts
are the same, and live in the engine.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from eto_gym.errors import DataError

ActionGrammar = Literal["auto", "put", "move"]

HELP_TEXT = (
    "Available commands:\n"
    "  look:                             look around your current location\n"
    "  inventory:                        check your current inventory\n"
    "  go to (receptacle):               move to a receptacle\n"
    "  open (receptacle):                open a receptacle\n"
    "  close (receptacle):               close a receptacle\n"
    "  take (object) from (receptacle):  take an object from a receptacle\n"
    "  move (object) to (receptacle):  place an object in or on a receptacle\n"
    "  examine (something):              examine a receptacle or an object\n"
    "  use (object):                     use an object\n"
    "  heat (object) with (receptacle):  heat an object using a receptacle\n"
    "  clean (object) with (receptacle): clean an object using a receptacle\n"
    "  cool (object) with (receptacle):  cool an object using a receptacle\n"
    "  slice (object) with (object):     slice an object using a sharp object\n"
)
"""What the official engine answers to `help`."""


@dataclass(frozen=True, slots=True)
class Wording:
    """The words of a game.

    Attributes:
        verb: "put" (`put X in/on Y`) or "move" (`move X to Y`).
        arrive_at_receptacle: Whether the agent arrives at a receptacle, or at `loc N`.
        help_text: The answer to `help`, or None where the game does not know it.
    """

    verb: Literal["put", "move"]
    arrive_at_receptacle: bool
    help_text: str | None


PUT_WORDING = Wording(verb="put", arrive_at_receptacle=False, help_text=None)
MOVE_WORDING = Wording(verb="move", arrive_at_receptacle=True, help_text=HELP_TEXT)

_TASK = re.compile(r'"task"\s*:\s*\[\s*\{\s*"rhs"\s*:\s*("(?:[^"\\]|\\.)*")\s*\}\s*\]')
_PUT_OBJECT = re.compile(r"action\s+PutObject\s*\{")
_TEMPLATE = re.compile(r'template\s*::\s*(?=")')
_LITERAL = re.compile(r'"(?:[^"\\]|\\.)*+"')
_VERBS: dict[tuple[str, str], Literal["put", "move"]] = {
    ("put {o} in/on {r}", "You put the {o.name} in/on the {r.name}."): "put",
    ("move {o} to {r}", "You move the {o.name} to the {r.name}."): "move",
}
_ARRIVALS = {
    "You arrive at {lend.name}. #examineReceptacle.feedback#": False,
    "You arrive at {r.name}. #examineReceptacle.feedback#": True,
}


def parse_grammar(text: str) -> tuple[str, Wording]:
    """Read a game's grammar and return its task line and its wording.

    Raises:
        DataError: The grammar has no task, or words an action as no official version does.
    """
    match = _TASK.search(text)
    if match is None:
        raise DataError('the grammar has no rule "task"')
    # Games differ in their task line only, so the rest is worth remembering.
    rest = text[: match.start()] + text[match.end() :]
    return _decode(match.group(1)), _parse_rest(rest)


@lru_cache(maxsize=16)
def _parse_rest(text: str) -> Wording:
    words = (_put_template(text), _feedback(text, "PutObject.feedback"))
    if words not in _VERBS:
        raise DataError(
            f"the grammar words PutObject as {words!r}; expected one of {list(_VERBS)} "
            '(backend="textworld" plays any grammar)'
        )
    arrival = _feedback(text, "GotoLocation.feedback")
    if arrival not in _ARRIVALS:
        raise DataError(
            f"the grammar words GotoLocation as {arrival!r}; expected one of {list(_ARRIVALS)} "
            '(backend="textworld" plays any grammar)'
        )
    has_help = re.search(r"\baction\s+help\s*\{", text) is not None
    return Wording(
        verb=_VERBS[words],
        arrive_at_receptacle=_ARRIVALS[arrival],
        # The official parser of texts drops white space at their start.
        help_text=_feedback(text, "help.feedback").lstrip() if has_help else None,
    )


def _put_template(text: str) -> str:
    """Return the template of the action PutObject, or "" if it has none."""
    done = 0
    for header in _PUT_OBJECT.finditer(text):
        if header.start() < done:
            continue
        done = text.find("}", header.end())
        done = len(text) if done < 0 else done
        key = _TEMPLATE.search(text, header.end(), done)
        template = _LITERAL.match(text, key.end()) if key is not None else None
        if template is not None:
            return template.group()[1:-1]
    return ""


def _feedback(text: str, rule: str) -> str:
    pattern = rf'"{re.escape(rule)}"\s*:\s*\[\s*\{{\s*"rhs"\s*:\s*("(?:[^"\\]|\\.)*")'
    match = re.search(pattern, text)
    if match is None:
        raise DataError(f"the grammar has no rule {rule!r}")
    return _decode(match.group(1))


def _decode(literal: str) -> str:
    try:
        return str(json.loads(literal))
    except (ValueError, RecursionError) as err:
        raise DataError(f"the grammar holds a malformed text: {literal!r}") from err


def force_grammar(text: str, verb: Literal["put", "move"]) -> str:
    """Rewrite a game's grammar in the wording of the ETO era, or of alfworld 0.4.

    `help` is left as it is, since it also needs an action of the domain.
    """
    old = "move" if verb == "put" else "put"
    for (template, feedback), kind in _VERBS.items():
        if kind == old:
            new = next(words for words, other in _VERBS.items() if other == verb)
            text = text.replace(f'"{template}"', f'"{new[0]}"')
            text = text.replace(f'"{feedback}"', f'"{new[1]}"')
    for arrival, at_receptacle in _ARRIVALS.items():
        if at_receptacle != (verb == "move"):
            new_arrival = next(words for words, at in _ARRIVALS.items() if at != at_receptacle)
            text = text.replace(f'"{arrival}"', f'"{new_arrival}"')
    return text
