"""A player that roams the shop: it searches, opens products, reads on, and tries options.

It gives replies in the format of an expert's, with thoughts that tell what is done now, never what
the instruction wants. A small language model that first learns from such play knows the pages, the
buttons, and how products that are seen are named in actions.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from eto_gym.envs.webshop.pages import SEPARATOR
from eto_gym.errors import EtoGymError
from eto_gym.expert import Reply

_CODE = re.compile(r"click\[(b0\w{8})\]")
_PLAIN = {
    "click[back to search]": "I go back to the search page.",
    "click[next >]": "I look at the next page.",
    "click[< prev]": "I go back.",
    "click[description]": "I read the description.",
    "click[features]": "I read the features.",
    "click[reviews]": "I read the reviews.",
    "click[buy now]": "I buy it now.",
}
_SELDOM = {"click[buy now]": 0.1, "click[back to search]": 0.1, "click[reviews]": 0.2}
"""How likely an action is, in parts of another one's chance; buying ends the episode."""


class Roamer:
    """Takes what the page offers at random; searches for a few words of the instruction.

    The environment must list the admissible actions in `info`.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        """Create the player for one episode.

        Args:
            rng: Where all its choices come from.
        """
        self._rng = rng
        self._words: list[str] = []

    def act(self, observation: str, info: dict[str, Any]) -> Reply:
        """Return the next reply.

        Raises:
            EtoGymError: `info` lists no admissible actions.
        """
        actions = info.get("admissible_actions")
        if not actions:
            raise EtoGymError(
                "the player of WebShop needs info['admissible_actions']: make the environment with "
                "admissible_actions=True"
            )
        parts = observation.split(SEPARATOR)
        if not self._words and "Instruction:" in parts:
            said = parts[parts.index("Instruction:") + 1 :][:1]
            self._words = re.findall(r"[a-z]+", " ".join(said).lower())
        chances = np.array([_SELDOM.get(action, 1.0) for action in actions])
        action = actions[int(self._rng.choice(len(actions), p=chances / chances.sum()))]
        if action.startswith("search["):
            return self._search()
        return Reply(_thought(action, parts), action)

    def _search(self) -> Reply:
        words = self._words or ["shirt"]
        first, count = int(self._rng.integers(len(words))), int(self._rng.integers(2, 6))
        query = " ".join(words[first : first + count])
        return Reply(f"I search for {query}.", f"search[{query}]")


def _thought(action: str, parts: list[str]) -> str:
    """Say what a click does, and name the product that it opens as the page does."""
    if action in _PLAIN:
        return _PLAIN[action]
    code = _CODE.fullmatch(action)
    if code is None:
        return f"I select {action.removeprefix('click[').removesuffix(']')}."
    name = code[1].upper()
    title = parts[parts.index(name) + 1] if name in parts[:-1] else "the product"
    return f"I take a closer look at {name}: {title}."
