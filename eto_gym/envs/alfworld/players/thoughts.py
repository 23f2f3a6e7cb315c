"""The sentences in which scripted players say what they are about to do."""

from __future__ import annotations

import re
import zlib
from typing import Final

import numpy as np

# Purpose of a step -> ways to say it. The expert names its subgoal and why this step serves it. It
# names what it looks for before it says whether that is here: whoever writes word by word, as
# language models do, then has the thing in mind when it must decide.
_EXPERT: Final[dict[str, tuple[str, ...]]] = {
    "search first": (
        "I need {a_kind}. The {place} is a likely place to start.",
        "I look for {a_kind}. I try the {place} first.",
    ),
    "search": (
        "I need {a_kind}. None is here, so I go on to the {place}.",
        "I look for {a_kind}. None so far. Next I check the {place}.",
    ),
    "search second": (
        "I need one more {kind}. I check the {place}.",
        "I look for the other {kind}. I try the {place}.",
    ),
    "search lamp": (
        "I have the {item}. Now I need the {kind} and check the {place}.",
        "The {item} is in my hand. I look for the {kind} at the {place}.",
    ),
    "open to look": (
        "The {place} is closed. I open it to look for {a_kind}.",
        "{a_kind} may be inside, so I open the {place}.",
    ),
    "examine": (
        "The {place} is right here, so I look at it.",
        "I am already next to the {place} and examine it.",
    ),
    "fetch": (
        "I saw the {item} at the {place}, so I go there.",
        "The {item} is at the {place}. I go and get it.",
    ),
    "fetch second": (
        "I need one more {kind}. I saw the {item} at the {place}.",
        "I look for the other {kind}. The {item} is at the {place}.",
    ),
    "open to take": ("The {place} is closed. I open it to get the {item}.",),
    "take": (
        "I need {a_kind}. Here is the {item}, and I take it.",
        "I look for {a_kind}. I found the {item} and pick it up.",
    ),
    "bring to tool": (
        "I have the {item}. I must {verb} it, so I go to the {place}.",
        "Now I {verb} the {item}. For that I go to the {place}.",
    ),
    "treat": (
        "I am at the {place}. I {verb} the {item} with it.",
        "The {place} is here, so I {verb} the {item}.",
    ),
    "bring": (
        "I have the {item}. I bring it to the {place}.",
        "The {item} has to go to the {place}, so I go there.",
    ),
    "bring treated": (
        "The {item} is {state} now. I bring it to the {place}.",
        "The {item} is {state}. It has to go to the {place}.",
    ),
    "open to put": (
        "The {place} is closed. I open it to put the {item} in.",
        "I open the {place} first.",
    ),
    "put": (
        "I am at the {place}. I put the {item} there.",
        "This is the place for the {item}. I put it down.",
    ),
    "bring to lamp": (
        "I have the {item}. The {lamp} is at the {place}, so I go there.",
        "Now I take the {item} to the {lamp} at the {place}.",
    ),
    "light": (
        "The {lamp} is here and I hold the {item}. I turn it on.",
        "I hold the {item} next to the {lamp}, so I switch it on.",
    ),
    "clear hand": (
        "I do not need the {item}. I want to leave it at the {place}.",
        "My hand must be free, so the {item} goes to the {place}.",
    ),
}

# First words of an action -> ways to say that it is done now. {x} and {y} are what it names.
_ACTIONS: Final[dict[str, tuple[str, ...]]] = {
    "go to": ("I walk to the {x}.", "I move over to the {x}.", "Off to the {x}."),
    "open": ("I pull the {x} open.", "I open the {x} now."),
    "close": ("I shut the {x}.", "I close the {x} again."),
    "take": ("I grab the {x} from the {y}.", "I get the {x} off the {y}."),
    "put": ("I set the {x} down at the {y}.", "The {x} stays at the {y}."),
    "move": ("I set the {x} down at the {y}.", "The {x} stays at the {y}."),
    "heat": ("I warm the {x} up with the {y}.", "The {y} makes the {x} hot."),
    "cool": ("I chill the {x} with the {y}.", "The {y} makes the {x} cool."),
    "clean": ("I wash the {x} with the {y}.", "The {y} gets the {x} clean."),
    "slice": ("I cut the {x} with the {y}.",),
    "use": ("I flip the switch of the {x}.", "I try the {x}."),
    "examine": ("I take a closer look at the {x}.",),
    "inventory": ("I check what I carry.",),
    "look": ("I look around.",),
    "help": ("I read the list of commands.",),
}
_OPERANDS = re.compile(
    r"(?P<verb>go to|\w+)(?: (?P<x>\w+ \d+))?(?: (?:from|in/on|to|with) (?P<y>\w+ \d+))?"
)


SEEKING = {
    "begin": (
        "Is there a {kind} somewhere? I start with the {place}.",
        "A {kind}, where might it be? Maybe at the {place}.",
    ),
    "next": (
        "A {kind}? I see none at the {last}. Maybe at the {place}.",
        "Is there a {kind}? The {last} has none. On to the {place}.",
    ),
    "closed": (
        "The {place} is shut. Maybe it hides a {kind}.",
        "Is a {kind} in the {place}? I have to open it to see.",
    ),
    "found": (
        "A {kind}? There is the {item}, at the {place}. I get it.",
        "Is there a {kind}? Yes, the {item}. I get it from the {place}.",
    ),
}
"""What a player says that seeks things for no purpose, by the turn of its search."""


def narrate(action: str, rng: np.random.Generator) -> str:
    """Say in one of several ways that an admissible action is done now, and not what for.

    Raises:
        ValueError: It is no action of ALFWorld.
    """
    match = _OPERANDS.fullmatch(action)
    if match is None or match["verb"] not in _ACTIONS:
        raise ValueError(f"expected an action of ALFWorld, got {action!r}")
    ways = _ACTIONS[match["verb"]]
    return ways[int(rng.integers(len(ways)))].format(x=match["x"], y=match["y"])


def expert_thought(purpose: str, *, seed: str, **words: str) -> str:
    """Word the purpose of an expert's step.

    Args:
        purpose: One of the table's keys.
        seed: Decides which of the ways to say it is taken; the same seed takes the same.
        words: What the sentence names (`kind`, `item`, `place`, ...); `a_kind` is made of `kind`.
    """
    ways = _EXPERT[purpose]
    way = ways[zlib.crc32(f"{seed}/{purpose}".encode()) % len(ways)]
    if "kind" in words:
        words["a_kind"] = with_article(words["kind"])
    text = way.format(**words)
    return text[0].upper() + text[1:]


def with_article(noun: str) -> str:
    """Write "a mug" or "an apple"."""
    return f"an {noun}" if noun[0] in "aeio" else f"a {noun}"
