"""Scripted players that are no experts: varied play for learning how the world answers.

They give replies in the format of an expert's, with thoughts that tell what is done now ("I take
the mug 1 from the shelf 2."), never what the task asks for. A small language model that first
learns from such play knows the names, the verbs and their effects, and is left to learn from
experts what to do with them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Literal, TypeVar, get_args

import numpy as np

from eto_gym.envs.alfworld.builtin.world import PLACES
from eto_gym.envs.alfworld.players.beliefs import Beliefs, accepts, base, suits
from eto_gym.envs.alfworld.players.expert import ALFWorldExpert, Verb
from eto_gym.envs.alfworld.players.thoughts import SEEKING, narrate
from eto_gym.errors import EtoGymError, unknown_name
from eto_gym.expert import Reply

T = TypeVar("T")

Errand = Generator[str | Reply, None, None]
"""Yields the moves of an errand: a whole reply, or an action whose thought is to be worded."""
PlayerName = Literal["random", "noisy", "explorer"]
_TOOLS: dict[str, str] = {"heat": "microwave", "cool": "fridge", "clean": "sinkbasin"}
_TREATMENT_SHARES = {"heat": 2.0, "cool": 2.0, "clean": 1.0}  # Fewer things can be heated.
_RANDOM_SHARES = {"look": 0.2, "inventory": 0.2, "examine": 0.3, "help": 0.05, "go": 2.0}


class RandomPlayer:
    """Takes random admissible actions; the environment must list them in `info`."""

    def __init__(self, rng: np.random.Generator) -> None:
        """Create the player for one episode.

        Args:
            rng: Where all its choices come from.
        """
        self._rng = rng

    def act(self, observation: str, info: dict[str, Any]) -> Reply:
        """Draw a verb, then one of its actions; verbs that change nothing are drawn less often."""
        action = _random_action(self._rng, info)
        return Reply(narrate(action, self._rng), action)


class NoisyExpert:
    """Follows the expert, strays from it now and then, and does not tell what it is after.

    The environment must list the admissible actions in `info`.
    """

    def __init__(self, rng: np.random.Generator, *, verb: Verb = "put", noise: float = 0.3) -> None:
        """Create the player for one episode.

        Args:
            rng: Where all its choices come from.
            verb: The game's word for putting things down.
            noise: Chance, at each step, to begin a detour of one to three random actions. 0.3 by
                default: about every other action is then random.

        Raises:
            ValueError: `noise` is no chance.
        """
        if not 0.0 <= noise <= 1.0:
            raise ValueError(f"expected noise in 0..1, got {noise}")
        self._rng = rng
        self._noise = noise
        self._expert = ALFWorldExpert(verb=verb)
        self._action: str | None = None
        self._detour = 0

    def act(self, observation: str, info: dict[str, Any]) -> Reply:
        """Return the expert's action, or a random one while on a detour or at a loss."""
        self._expert.observe(self._action, observation)
        if self._detour == 0 and self._rng.random() < self._noise:
            self._detour = int(self._rng.integers(1, 4))
        advice = None
        if self._detour:
            self._detour -= 1
        else:
            advice = self._expert.advise()
        self._action = advice.action if advice else _random_action(self._rng, info)
        return Reply(narrate(self._action, self._rng), self._action)


class Explorer:
    """Pursues one small errand after the other: seek a thing, carry one, heat or wash it.

    It needs no list of admissible actions: it does what its memory of the observations says can be
    done. Errands are drawn without regard to the task.
    """

    def __init__(self, rng: np.random.Generator, *, verb: Verb = "put") -> None:
        """Create the player for one episode.

        Args:
            rng: Where all its choices come from.
            verb: The game's word for putting things down.
        """
        self.beliefs = Beliefs()
        self._rng = rng
        self._verb = verb
        self._action: str | None = None
        self._started = False
        self._errand: Errand = _nothing()

    def act(self, observation: str, info: dict[str, Any]) -> Reply:
        """Return the next action of the current errand, or the first one of a new errand."""
        self.beliefs.update(self._action if self._started else None, observation)
        self._started = True
        if self.beliefs.failed:
            self._errand = _nothing()
        move = next(self._errand, None)
        while move is None:
            self._errand = self._draw_errand()
            move = next(self._errand, None)
        reply = move if isinstance(move, Reply) else Reply(narrate(move, self._rng), move)
        self._action = reply.action
        return reply

    def _draw_errand(self) -> Errand:
        """Draw an errand; carrying something makes those that need it possible."""
        errands: list[tuple[float, Callable[[], Errand]]] = [
            (2.0, self._look_into),
            (0.4, self._check),
        ]
        if self.beliefs.holding:
            errands += [(4.0, self._put_away), (5.0, self._treat), (1.0, self._examine)]
        else:
            errands += [(2.0, self._take), (7.0, self._seek)]
        errands += [(0.8, self._use), (0.5, self._close)]
        weights = np.array([weight for weight, _ in errands])
        chosen = int(self._rng.choice(len(errands), p=weights / weights.sum()))
        return errands[chosen][1]()

    # An errand yields its actions one by one; each resumes when the answer is known. One that
    # cannot be done yields nothing.

    def _look_into(self) -> Errand:
        unseen = [place for place in self.beliefs.receptacles if place not in self.beliefs.contents]
        if unseen or self.beliefs.receptacles:
            yield from self._reach(_pick(self._rng, unseen or self.beliefs.receptacles))

    def _check(self) -> Errand:
        yield "inventory" if self.beliefs.holding or self._rng.random() < 0.5 else "look"

    def _seek(self) -> Errand:
        """Look for a kind of thing that may or may not be in the room, from place to place."""
        kinds = sorted(kind.lower() for kind in PLACES[self.beliefs.room])
        kind = _pick(self._rng, [kind for kind in kinds if suits("take", f"{kind} 1")])
        words = {"kind": kind, "last": "", "place": ""}
        order = self._rng.permutation(len(self.beliefs.receptacles))
        purpose = "begin"
        for place in (self.beliefs.receptacles[i] for i in order):
            words["place"] = place
            if not self.beliefs.is_here(place):
                yield Reply(self._seeking(purpose, words), f"go to {place}")
            if place in self.beliefs.closed:
                yield Reply(self._seeking("closed", words), f"open {place}")
            found = [obj for obj in self.beliefs.contents.get(place, ()) if base(obj) == kind]
            if found:
                words["item"] = found[0]
                yield Reply(self._seeking("found", words), f"take {found[0]} from {place}")
                return
            purpose, words["last"] = "next", place

    def _seeking(self, purpose: str, words: dict[str, str]) -> str:
        return _pick(self._rng, list(SEEKING[purpose])).format(**words)

    def _take(self) -> Errand:
        seen = [
            (obj, place)
            for place, objects in self.beliefs.contents.items()
            for obj in objects
            if suits("take", obj)
        ]
        if seen:
            obj, place = _pick(self._rng, seen)
            yield from self._reach(place)
            yield f"take {obj} from {place}"

    def _put_away(self) -> Errand:
        held = self.beliefs.holding
        places = [place for place in self.beliefs.receptacles if held and accepts(place, held)]
        if held and places:
            place = _pick(self._rng, places)
            yield from self._reach(place)
            yield f"put {held} in/on {place}" if self._verb == "put" else f"move {held} to {place}"

    def _treat(self) -> Errand:
        held = self.beliefs.holding
        choices = [
            (verb, place)
            for verb, tool in _TOOLS.items()
            for place in self.beliefs.of_kind(tool)
            if held and suits(verb, held)
        ]
        if held and choices:
            weights = np.array([_TREATMENT_SHARES[verb] for verb, _ in choices])
            verb, place = choices[int(self._rng.choice(len(choices), p=weights / weights.sum()))]
            if not self.beliefs.is_here(place):
                yield f"go to {place}"
            yield f"{verb} {held} with {place}"
            if self._rng.random() < 0.2:
                yield f"examine {held}"

    def _examine(self) -> Errand:
        if self.beliefs.holding:
            yield f"examine {self.beliefs.holding}"

    def _use(self) -> Errand:
        lamps = [
            (obj, place)
            for place, objects in self.beliefs.contents.items()
            for obj in objects
            if suits("use", obj)
        ]
        if lamps:
            lamp, place = _pick(self._rng, lamps)
            yield from self._reach(place)
            yield f"use {lamp}"

    def _close(self) -> Errand:
        here = self.beliefs.here
        if here in self.beliefs.opened:
            yield f"close {here}"

    def _reach(self, place: str) -> Errand:
        """Go to a receptacle and open it if it is closed."""
        if not self.beliefs.is_here(place):
            yield f"go to {place}"
        if place in self.beliefs.closed:
            yield f"open {place}"


def make_player(
    name: PlayerName, rng: np.random.Generator, *, verb: Verb = "put"
) -> RandomPlayer | NoisyExpert | Explorer:
    """Create a player by name for one episode.

    Args:
        name: "random", "noisy" or "explorer"; the first two need `admissible_actions=True`.
        rng: Where all its choices come from.
        verb: The game's word for putting things down.

    Raises:
        UnknownNameError: There is no such player.
    """
    if name == "random":
        return RandomPlayer(rng)
    if name == "noisy":
        return NoisyExpert(rng, verb=verb)
    if name == "explorer":
        return Explorer(rng, verb=verb)
    raise unknown_name("player", name, get_args(PlayerName))


def _nothing() -> Errand:
    yield from ()


def _random_action(rng: np.random.Generator, info: dict[str, Any]) -> str:
    actions: list[str] | None = info.get("admissible_actions")
    if not actions:
        raise EtoGymError(
            "this player draws from info['admissible_actions']; make the environment with "
            "admissible_actions=True"
        )
    verbs = sorted({action.split(" ", 1)[0] for action in actions})
    weights = np.array([_RANDOM_SHARES.get(verb, 1.0) for verb in verbs])
    verb = verbs[int(rng.choice(len(verbs), p=weights / weights.sum()))]
    return _pick(rng, [action for action in actions if action.split(" ", 1)[0] == verb])


def _pick(rng: np.random.Generator, items: list[T]) -> T:
    return items[int(rng.integers(len(items)))]
