"""A player that roams the house: it goes somewhere, looks around, and handles what it sees there.

It gives replies in the format of an expert's, with thoughts that tell what is done now, never what
the task asks for. A small language model that first learns from such play knows the rooms, the
verbs and how things that are seen are named in actions.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import Any

import numpy as np

from eto_gym.expert import Reply

PLACES = (
    "art studio", "bathroom", "bedroom", "foundry", "greenhouse", "hallway", "kitchen",
    "living room", "outside", "workshop",
)  # fmt: skip

_LISTED = re.compile(r"^\t(?:an? )?([a-zA-Z][\w ]*?)(?:\.| \(|, which|$)", re.MULTILINE)
_FIXED = ("the ", "agent", "substance", "air", "door", "ground")


class Roamer:
    """Roams by teleporting; does one to three things with what it finds at each place."""

    def __init__(self, rng: np.random.Generator) -> None:
        """Create the player for one episode.

        Args:
            rng: Where all its choices come from.
        """
        self._rng = rng
        self._errand: Generator[Reply, str, None] | None = None

    def act(self, observation: str, info: dict[str, Any]) -> Reply:
        """Return the next reply."""
        if observation.startswith("Ambiguous request"):
            return Reply("Any of these will do, so I take the first.", "0")
        if self._errand is not None:
            try:
                return self._errand.send(observation)
            except StopIteration:
                pass
        self._errand = self._roam()
        return next(self._errand)

    def _roam(self) -> Generator[Reply, str, None]:
        """Go somewhere, look around, handle some things, and carry one elsewhere at times."""
        yield self._go(self._draw(PLACES))
        seen = yield Reply("I look around to see what is here.", "look around")
        things = [t for t in _things(seen) if "box" not in t]
        if not things:
            return
        for _ in range(int(self._rng.integers(1, 3))):
            yield self._handle(self._draw(things))
        thing, place = self._draw(things), self._draw(PLACES)
        yield Reply(f"I will need the {thing}, so I take it.", f"pick up {thing}")
        yield self._go(place)
        seen = yield Reply("I look around to see what is here.", "look around")
        targets = [t for t in _things(seen) if "box" in t] or _things(seen)
        if targets:
            target = self._draw(targets)
            yield Reply(f"I move the {thing} to the {target}.", f"move {thing} to {target}")

    def _go(self, place: str) -> Reply:
        return Reply(f"I go to the {place}.", f"teleport to {place}")

    def _handle(self, thing: str) -> Reply:
        """Look at a thing, open it, or (seldom, since it may end the episode) focus on it."""
        draw = self._rng.random()
        if draw < 0.2:
            return Reply(f"I focus on the {thing}.", f"focus on {thing}")
        if draw < 0.4:
            return Reply(f"I open the {thing}.", f"open {thing}")
        return Reply(f"I look at the {thing}.", f"look at {thing}")

    def _draw(self, choices: Any) -> str:
        return str(choices[int(self._rng.integers(len(choices)))])


def _things(seen: str) -> list[str]:
    """Return the names of the things that a look around lists."""
    names = [name.strip() for name in _LISTED.findall(seen.partition("You also see")[0])]
    return [name for name in names if not name.startswith(_FIXED)]
