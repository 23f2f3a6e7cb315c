"""Plays games of the ALFRED household domain as the official TextWorld engine does.

What happens, in which words, and which commands are admissible follow the official engine step by
step, including what looks like oversights: a closed door does not stop heating, cooling, cleaning,
slicing or switching on; whatever is switched on stays on; a second receptacle at the agent's own
location cannot be gone to.
"""

from __future__ import annotations

import copy
from bisect import insort
from collections.abc import Mapping
from typing import Any

from eto_gym.envs.alfworld.engine.game import Action, Game, enumerate_names, list_things, parse_game
from eto_gym.errors import EngineError

__all__ = ["ENGINE_VERSION", "NOTHING_HAPPENS", "Game", "Playthrough", "parse_game"]

ENGINE_VERSION = "1"
"""Changes whenever the engine plays differently; recorded in cards."""

NOTHING_HAPPENS = "Nothing happens."

_QUIET = frozenset({"look", "inventory", "examine", "examine object", "help"})
"""Kinds of actions that change nothing."""

_CHANGES_COMMANDS = frozenset({"go", "open", "close", "take", "put"})
"""Kinds of actions that change which commands are admissible."""


class Playthrough:
    """One play of a game.

    The attributes are the state, in numbers of `Game`: `location`, `held` (-1: nothing), the sets
    `opened`, `clean`, `hot`, `cool`, `sliced`, `toggled`, and per object the receptacles that it is
    `inside` and the locations that it counts as being `at`. `contents` mirrors `inside`.
    """

    __slots__ = (
        "_commands",
        "at",
        "clean",
        "contents",
        "cool",
        "game",
        "held",
        "hot",
        "inside",
        "location",
        "opened",
        "removed",
        "sliced",
        "toggled",
        "won",
    )

    def __init__(self, game: Game) -> None:
        """Start the game; its first observation is `game.intro`."""
        start = game.start
        self.game = game
        self.location: int = start["location"]
        self.held: int = start["held"]
        self.opened: set[int] = set(start["opened"])
        self.inside: list[tuple[int, ...]] = list(start["inside"])
        self.contents: list[list[int]] = list(map(list, start["contents"]))
        self.at: list[frozenset[int]] = list(start["at"])
        self.removed: set[tuple[int, int]] = set()
        """Objects and the receptacles that they were once taken from, and not put back into."""
        self.clean: set[int] = set(start["clean"])
        self.hot: set[int] = set(start["hot"])
        self.cool: set[int] = set(start["cool"])
        self.sliced: set[int] = set(start["sliced"])
        self.toggled: set[int] = set(start["toggled"])
        self.won: bool = game.goal.holds(self)
        self._commands: dict[str, Action] | None = None

    # --- play -----------------------------------------------------------------------------------

    def step(self, command: str) -> str:
        """Take a command and return the answer; anything inadmissible does nothing."""
        action = self.commands().get(command.strip())
        if action is None:
            return NOTHING_HAPPENS
        kind, first, second = action
        if kind not in _QUIET:
            self._apply(kind, first, second)
            if kind in _CHANGES_COMMANDS:
                self._commands = None
            if kind in self.game.goal.triggers:
                self.won = self.game.goal.holds(self)
        return self._answer(kind, first, second)

    def admissible(self) -> list[str]:
        """Return the sorted admissible commands."""
        return list(self.commands())

    def commands(self) -> dict[str, Action]:
        """Return the admissible commands and what they do, sorted by command."""
        commands = self._commands
        if commands is None:
            commands = self._commands = self._find_commands()
        return commands

    # --- what can be done ----------------------------------------------------------------------

    def _find_commands(self) -> dict[str, Action]:
        game, held = self.game, self.held
        objects, receptacles = game.objects, game.receptacles
        here = game.residents[self.location]
        opened, openable = self.opened, game.openable
        # Each group is sorted, and the groups are joined in the order of their verbs.
        commands: dict[str, Action] = {}
        closing: dict[str, Action] = {}
        opening: dict[str, Action] = {}
        examining: dict[str, Action] = {}
        moving: dict[str, Action] = {}
        using: dict[str, Action] = {}
        for r in here:
            name = receptacles[r]
            examining[f"examine {name}"] = ("examine", r, -1)
            accessible = True
            if r in openable:
                if r in opened:
                    closing[f"close {name}"] = ("close", r, -1)
                else:
                    opening[f"open {name}"] = ("open", r, -1)
                    accessible = False
            for o in self.contents[r]:
                if accessible and held < 0 and o in game.pickupable:
                    moving[f"take {objects[o]} from {name}"] = ("take", o, r)
                if o in game.toggleable:
                    using[f"use {objects[o]}"] = ("use", o, -1)
            if accessible and held >= 0 and r in game.accepts[held]:
                if game.wording.verb == "put":
                    moving[f"put {objects[held]} in/on {name}"] = ("put", held, r)
                else:
                    moving[f"move {objects[held]} to {name}"] = ("put", held, r)
        if held >= 0:
            examining[f"examine {objects[held]}"] = ("examine object", held, -1)
            self._add_treatments(commands, here, "clean")
        _extend(commands, closing)
        if held >= 0:
            self._add_treatments(commands, here, "cool")
        _extend(commands, examining)
        commands.update(game.travel_from(self.location))
        if held >= 0:
            self._add_treatments(commands, here, "heat")
        if game.wording.help_text is not None:
            commands["help"] = ("help", -1, -1)
        commands["inventory"] = ("inventory", -1, -1)
        commands["look"] = ("look", -1, -1)
        if held >= 0 and game.wording.verb == "move":
            _extend(commands, moving)
        _extend(commands, opening)
        if held >= 0:
            if game.wording.verb == "put":
                _extend(commands, moving)
            if held in game.knives:
                _extend(commands, self._slicing())
        else:
            _extend(commands, moving)
        _extend(commands, using)
        return commands

    def _add_treatments(
        self, commands: dict[str, Action], here: tuple[int, ...], verb: str
    ) -> None:
        appliances, suited = self.game.appliances[verb]
        if self.held in suited:
            found = {
                f"{verb} {self.game.objects[self.held]} with {self.game.receptacles[r]}": (
                    verb,
                    self.held,
                    r,
                )
                for r in here
                if r in appliances
            }
            _extend(commands, found)

    def _slicing(self) -> dict[str, Action]:
        objects, knife = self.game.objects, self.held
        return {
            f"slice {objects[o]} with {objects[knife]}": ("slice", o, knife)
            for o in self.game.sliceable
            if self.location in self.at[o]
        }

    # --- what it does --------------------------------------------------------------------------

    def _apply(self, kind: str, first: int, second: int) -> None:
        if kind == "go":
            self.location = self.game.place[first]
        elif kind == "take":
            self.contents[second].remove(first)
            self.inside[first] = tuple(r for r in self.inside[first] if r != second)
            self.at[first] -= {self.location}
            self.removed.add((first, second))
            self.held = first
        elif kind == "put":
            if second not in self.inside[first]:
                insort(self.contents[second], first)
                self.inside[first] = (*self.inside[first], second)
            self.at[first] |= {self.location}
            self.removed.discard((first, second))
            self.held = -1
        elif kind == "open":
            self.opened.add(first)
        elif kind == "close":
            self.opened.discard(first)
        elif kind == "clean":
            self.clean.add(first)
        elif kind == "heat":
            self.hot.add(first)
            self.cool.discard(first)
        elif kind == "cool":
            self.cool.add(first)
            self.hot.discard(first)
        elif kind == "use":
            self.toggled.add(first)
        elif kind == "slice":
            self.sliced.add(first)
        else:
            raise AssertionError(kind)

    # --- what is answered ----------------------------------------------------------------------

    def _answer(self, kind: str, first: int, second: int) -> str:
        game = self.game
        objects, receptacles = game.objects, game.receptacles
        if kind == "go":
            if game.wording.arrive_at_receptacle:
                arrival = receptacles[first]
            else:
                arrival = game.locations[self.location]
            return f"You arrive at {arrival}. {self._describe(first)}"
        if kind == "take":
            return f"You pick up the {objects[first]} from the {receptacles[second]}."
        if kind == "put":
            if game.wording.verb == "put":
                return f"You put the {objects[first]} in/on the {receptacles[second]}."
            return f"You move the {objects[first]} to the {receptacles[second]}."
        if kind == "open":
            return f"You open the {receptacles[first]}. {self._describe(first)}"
        if kind == "close":
            return f"You close the {receptacles[first]}."
        if kind in game.appliances:
            return f"You {kind} the {objects[first]} using the {receptacles[second]}."
        if kind == "use":
            return f"You turn on the {objects[first]}."
        if kind == "slice":
            return f"You sliced the {objects[first]} with the {objects[second]}."
        if kind == "examine":
            return self._describe(first)
        if kind == "examine object":
            return self._describe_object(first)
        if kind == "inventory":
            if self.held < 0:
                return "You are not carrying anything."
            return f"You are carrying: a {objects[self.held]}."
        if kind == "help":
            return game.wording.help_text or ""
        return self._look()

    def _describe(self, receptacle: int) -> str:
        game = self.game
        name = game.receptacles[receptacle]
        if receptacle in game.openable:
            if receptacle not in self.opened:
                return f"The {name} is closed."
            opening = f"The {name} is open. In it, you see "
        else:
            opening = f"On the {name}, you see "
        objects = game.objects
        return f"{opening}{list_things([objects[o] for o in self.contents[receptacle]])}."

    def _describe_object(self, o: int) -> str:
        game = self.game
        name = game.objects[o]
        if o in game.holders:
            return f"This is a normal {name}. In it, you see {list_things(game.holders[o])}."
        clean, hot, cool = o in self.clean, o in self.hot, o in self.cool
        sliced = o in self.sliced
        if sliced and (clean or hot or cool):
            return f"This is a {_condition(clean, hot, cool)} sliced {name}."
        if hot or clean:
            return f"This is a {_condition(clean, hot, cool)} {name}."
        if cool:
            return f"This is a cold {name}."
        if o in game.toggleable and o in self.toggled:
            return f"This {name} is on."
        if sliced and o in game.sliceable:
            return f"This is a sliced {name}."
        return f"There's nothing special about {name}."

    def _look(self) -> str:
        game = self.game
        here = game.residents[self.location]
        if not here:
            return "You are in the middle of a room. Looking quickly around you, you see nothing."
        beside = [
            game.objects[o]
            for o, r in sorted(self.removed)
            if r in here and self.location in self.at[o]
        ]
        facing = enumerate_names([game.receptacles[r] for r in here])
        return f"You are facing the {facing}. Next to it, you see {list_things(beside)}."

    # --- snapshots -----------------------------------------------------------------------------

    def copy(self) -> Playthrough:
        """Return another play that goes on from here."""
        other = copy.copy(self)
        other.contents = list(map(list, self.contents))
        for name in ("opened", "removed", "clean", "hot", "cool", "sliced", "toggled"):
            setattr(other, name, set(getattr(self, name)))
        other.inside, other.at = list(self.inside), list(self.at)
        return other

    def get_state(self) -> dict[str, Any]:
        """Return a JSON-serialisable snapshot, in names."""
        game = self.game
        objects, receptacles, locations = game.objects, game.receptacles, game.locations

        def things(numbers: set[int]) -> list[str]:
            return [objects[o] for o in sorted(numbers)]

        return {
            "location": locations[self.location],
            "held": None if self.held < 0 else objects[self.held],
            "opened": [receptacles[r] for r in sorted(self.opened)],
            "contents": {
                receptacles[r]: [objects[o] for o in inside]
                for r, inside in enumerate(self.contents)
                if inside
            },
            "at": {
                objects[o]: [locations[place] for place in sorted(places)]
                for o, places in enumerate(self.at)
                if places
            },
            "removed": [[objects[o], receptacles[r]] for o, r in sorted(self.removed)],
            "clean": things(self.clean),
            "hot": things(self.hot),
            "cool": things(self.cool),
            "sliced": things(self.sliced),
            "toggled": things(self.toggled),
        }

    @classmethod
    def from_state(cls, game: Game, state: Mapping[str, Any]) -> Playthrough:
        """Continue from a snapshot of the same game.

        Raises:
            EngineError: The snapshot does not fit the game.
        """
        objects = {name: i for i, name in enumerate(game.objects)}
        receptacles = {name: i for i, name in enumerate(game.receptacles)}
        locations = {name: i for i, name in enumerate(game.locations)}
        episode = cls(game)
        try:
            episode.location = locations[state["location"]]
            episode.held = -1 if state["held"] is None else objects[state["held"]]
            episode.opened = {receptacles[name] for name in state["opened"]}
            inside: list[tuple[int, ...]] = [()] * len(objects)
            contents: list[list[int]] = [[] for _ in receptacles]
            for name, names in state["contents"].items():
                r = receptacles[name]
                contents[r] = sorted(objects[o] for o in names)
                for o in contents[r]:
                    inside[o] = (*inside[o], r)
            places: list[frozenset[int]] = [frozenset()] * len(objects)
            for name, names in state["at"].items():
                places[objects[name]] = frozenset(locations[place] for place in names)
            episode.inside, episode.contents, episode.at = inside, contents, places
            episode.removed = {(objects[o], receptacles[r]) for o, r in state["removed"]}
            for condition in ("clean", "hot", "cool", "sliced", "toggled"):
                setattr(episode, condition, {objects[name] for name in state[condition]})
        except (KeyError, TypeError, ValueError, AttributeError) as err:
            raise EngineError(f"the snapshot does not fit the game: {err!r}") from err
        episode.won = game.goal.holds(episode)
        return episode


def _condition(clean: bool, hot: bool, cool: bool) -> str:
    heat = "hot" if hot else "cool" if cool else ""
    return f"{heat} and clean" if heat and clean else heat or "clean"


def _extend(commands: dict[str, Action], group: dict[str, Action]) -> None:
    """Add a group of commands in their order."""
    if len(group) > 1:
        for name in sorted(group):
            commands[name] = group[name]
    elif group:
        commands.update(group)
