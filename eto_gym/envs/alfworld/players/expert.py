"""A scripted expert of ALFWorld that knows only what an agent sees."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from eto_gym.envs.alfworld.builtin.world import LAMP_PLACES
from eto_gym.envs.alfworld.players.beliefs import Beliefs, accepts, base, shares
from eto_gym.envs.alfworld.players.thoughts import expert_thought
from eto_gym.expert import Reply

Verb = Literal["put", "move"]
Treatment = Literal["heat", "cool", "clean"]

_TOOLS: dict[Treatment, str] = {"heat": "microwave", "cool": "fridge", "clean": "sinkbasin"}
_STATES: dict[Treatment, str] = {"heat": "hot", "cool": "cool", "clean": "clean"}
_VERBS: dict[str, Treatment] = {"hot": "heat", "cool": "cool", "clean": "clean", "heat": "heat"}
_GOALS = (
    (re.compile(r"(?:look at|examine the) (?P<obj>\w+) (?:under|with) the (?P<to>\w+)"), "light"),
    (re.compile(r"(?:put|find) two (?P<obj>\w+) (?:in|and put them in) (?P<to>\w+)"), "two"),
    (re.compile(r"put a (?P<state>hot|cool|clean) (?P<obj>\w+) in (?P<to>\w+)"), "treat"),
    (
        re.compile(r"(?P<state>heat|cool|clean) some (?P<obj>\w+) and put it in (?P<to>\w+)"),
        "treat",
    ),
    (re.compile(r"put (?:a|some) (?P<obj>\w+) (?:in|on) (?P<to>\w+)"), "move"),
)
_MAX_FAILURES = 3


@dataclass(frozen=True, slots=True)
class Instruction:
    """What a task's sentence asks for, in the words of the observations ("mug", "shelf")."""

    kind: Literal["move", "two", "treat", "light"]
    obj: str
    target: str
    treatment: Treatment | None = None


def parse_goal(task: str) -> Instruction | None:
    """Read the sentence that states a task, or return None if it is not one of the games'."""
    for pattern, kind in _GOALS:
        if match := pattern.match(task):
            found = match.groupdict()
            treatment = _VERBS[found["state"]] if "state" in found else None
            return Instruction(kind, found["obj"], found["to"], treatment)  # type: ignore[arg-type]
    return None


class ALFWorldExpert:
    """Searches likely receptacles first, then does what the task asks, without filler moves.

    It reads the observations alone (either form of them), never the engine's state, and goes on
    from wherever it is, so it may also be asked in the middle of somebody else's play, as long as
    it was told of every step by `observe`.
    """

    def __init__(self, *, verb: Verb = "put") -> None:
        """Create the expert for one episode.

        Args:
            verb: "put" or "move", the game's word for putting things down.
        """
        self.beliefs = Beliefs()
        self._verb: Verb = verb
        self._goal: Instruction | None = None
        self._started = False
        self._action: str | None = None
        self._home: str | None = None
        self._failures = 0

    def act(self, observation: str, info: dict[str, Any]) -> Reply | None:
        """Return the next reply; None when the task is done or nothing is left to try."""
        self.observe(self._action, observation)
        reply = None if self._failures > _MAX_FAILURES else self.advise()
        self._action = reply.action if reply else None
        return reply

    def observe(self, action: str | None, observation: str) -> None:
        """Take in an observation and the action that led to it.

        No action led to the first one, nor to what answers a reply that has none: nothing happened.
        """
        if self._started and action is None:
            return
        self.beliefs.update(action if self._started else None, observation)
        if not self._started:
            self._started = True
            self._goal = parse_goal(self.beliefs.task)
            return
        self._failures = self._failures + 1 if self.beliefs.failed else 0
        if self.beliefs.failed and action and action.startswith(("put ", "move ")):
            self._verb = "move" if self._verb == "put" else "put"

    def advise(self) -> Reply | None:
        """Say what to do now, without taking it as done."""
        goal = self._goal
        if goal is None:
            return None
        held = self.beliefs.holding
        if held is None:
            return self._get(goal)
        if base(held) != goal.obj:
            return self._clear_hand(held)
        if goal.kind == "light":
            return self._light(goal, held)
        if goal.treatment and _STATES[goal.treatment] not in self.beliefs.states.get(held, ()):
            return self._treat(goal.treatment, held)
        return self._bring(goal, held)

    # --- with an empty hand ------------------------------------------------------------

    def _get(self, goal: Instruction) -> Reply | None:
        """Take a wanted object whose place is known, or look for one."""
        delivered = self._delivered(goal)
        if len(delivered) >= (2 if goal.kind == "two" else 1):
            return None
        second = " second" if goal.kind == "two" and delivered else ""
        places = [
            (obj, place)
            for obj, place in self.beliefs.where(goal.obj)
            if obj not in delivered and not (goal.kind == "move" and base(place) == goal.target)
        ]
        if not places:
            purpose = f"search{second}" if second or self.beliefs.here else "search first"
            return self._search(goal.obj, purpose, {"kind": goal.obj})
        obj, place = min(places, key=lambda pair: self._effort(pair[1]))
        words = {"item": obj, "place": place, "kind": goal.obj}
        return self._reach(place, f"fetch{second}", "open to take", words) or self._say(
            "take", f"take {obj} from {place}", words
        )

    def _delivered(self, goal: Instruction) -> list[str]:
        """List the objects that are where and as the task wants them."""
        if goal.kind == "light":
            return []
        there = {
            place: [
                obj
                for obj in self.beliefs.contents.get(place, ())
                if base(obj) == goal.obj
                and (
                    goal.treatment is None
                    or _STATES[goal.treatment] in self.beliefs.states.get(obj, ())
                )
            ]
            for place in self.beliefs.of_kind(goal.target)
        }
        if goal.kind == "two" and self._home is None:
            self._home = next((place for place, found in there.items() if found), None)
        if self._home is not None:
            return there[self._home]
        return max(there.values(), key=len, default=[])

    def _search(self, kind: str, purpose: str, words: dict[str, str]) -> Reply | None:
        """Look into the receptacle that promises most for its steps."""
        beliefs = self.beliefs
        unseen = [place for place in beliefs.receptacles if place not in beliefs.contents]
        if not unseen:
            return None
        chances = shares(beliefs.room, kind)
        if kind.endswith("lamp"):
            chances = {place.lower(): float(share) for place, share in LAMP_PLACES.items()}

        def promise(place: str) -> float:
            chance = chances.get(base(place), 0.05) / len(beliefs.of_kind(base(place)))
            return chance / (self._effort(place) or 1)

        place = max(unseen, key=promise)
        words = words | {"place": place}
        step = self._reach(place, purpose, "open to look", words)
        return step or self._say("examine", f"examine {place}", words)

    # --- with an object in hand ------------------------------------------------------------

    def _treat(self, treatment: Treatment, held: str) -> Reply | None:
        tools = self.beliefs.of_kind(_TOOLS[treatment])
        if not tools:
            return None
        place = next((tool for tool in tools if self.beliefs.is_here(tool)), tools[0])
        words = {"item": held, "place": place, "verb": treatment}
        if self.beliefs.is_here(place):
            return self._say("treat", f"{treatment} {held} with {place}", words)
        return self._say("bring to tool", f"go to {place}", words)

    def _bring(self, goal: Instruction, held: str) -> Reply | None:
        targets = self.beliefs.of_kind(goal.target)
        if not targets:
            return None
        place = self._home or min(targets, key=self._effort)
        if goal.kind == "two":
            self._home = place
        words = {"item": held, "place": place}
        purpose = "bring"
        if goal.treatment:
            purpose, words["state"] = "bring treated", _STATES[goal.treatment]
        return self._put(held, place, purpose, words)

    def _light(self, goal: Instruction, held: str) -> Reply | None:
        lamps = self.beliefs.where(goal.target)
        words = {"item": held, "kind": goal.target}
        if not lamps:
            return self._search(goal.target, "search lamp", words)
        lamp, place = min(lamps, key=lambda pair: self._effort(pair[1]))
        words |= {"lamp": lamp, "place": place}
        if not self.beliefs.is_here(place):
            return self._say("bring to lamp", f"go to {place}", words)
        return self._say("light", f"use {lamp}", words)

    def _clear_hand(self, held: str) -> Reply | None:
        places = [place for place in self.beliefs.receptacles if accepts(place, held)]
        if not places:
            return None
        place = min(places, key=self._effort)
        return self._put(held, place, "clear hand", {"item": held, "place": place})

    def _put(self, held: str, place: str, purpose: str, words: dict[str, str]) -> Reply:
        step = self._reach(place, purpose, "open to put", words)
        if step:
            return step
        action = f"put {held} in/on {place}" if self._verb == "put" else f"move {held} to {place}"
        return self._say("clear hand" if purpose == "clear hand" else "put", action, words)

    # --- moves ------------------------------------------------------------

    def _effort(self, place: str) -> int:
        """Count the steps until the receptacle is in reach and open."""
        return (not self.beliefs.is_here(place)) + self.beliefs.may_be_closed(place)

    def _reach(self, place: str, going: str, opening: str, words: dict[str, str]) -> Reply | None:
        """Go to the receptacle or open it; None when it is in reach and not closed."""
        if not self.beliefs.is_here(place):
            return self._say(going, f"go to {place}", words)
        if place in self.beliefs.closed:
            return self._say(opening, f"open {place}", words)
        return None

    def _say(self, purpose: str, action: str, words: dict[str, str]) -> Reply:
        # One way of saying things per episode: variety between episodes, none within.
        return Reply(expert_thought(purpose, seed=self.beliefs.task, **words), action)
