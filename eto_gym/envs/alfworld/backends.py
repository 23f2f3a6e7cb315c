"""The two engines that can play a game: our own, and the official TextWorld engine."""

from __future__ import annotations

import json
import os
import re
import tempfile
from importlib import metadata
from typing import Any, Protocol

from eto_gym.envs.alfworld.engine.engine import ENGINE_VERSION, Playthrough
from eto_gym.envs.alfworld.engine.wording import HELP_TEXT, ActionGrammar, force_grammar
from eto_gym.envs.alfworld.games import GAMES, GameSource
from eto_gym.errors import DataError, EngineError, require


class Backend(Protocol):
    """Plays one episode at a time."""

    version: str

    @property
    def episode(self) -> Playthrough:
        """The episode that is being played, on the own engine; not to be changed."""
        ...

    def reset(self, task_id: str) -> str:
        """Start a task and return its first observation."""
        ...

    def step(self, action: str) -> str:
        """Take an action and return the answer; raises EngineError when the engine fails."""
        ...

    def won(self) -> bool:
        """Tell whether the goal is reached."""
        ...

    def admissible(self) -> list[str]:
        """Return the sorted admissible actions."""
        ...

    def get_state(self) -> Any:
        """Return a JSON-serialisable snapshot."""
        ...

    def set_state(self, task_id: str, state: Any) -> None:
        """Continue from a snapshot of the same task."""
        ...

    def close(self) -> None:
        """Free what the engine holds."""
        ...


class EngineBackend:
    """Plays on the own engine."""

    version = ENGINE_VERSION

    def __init__(self, games: GameSource, action_grammar: ActionGrammar) -> None:
        """Prepare to play `games` in the given wording."""
        self._games = games
        self._grammar = action_grammar
        self._task_id = ""
        self._episode: Playthrough | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Write the episode as a snapshot: its game is read-only, and shared."""
        episode = None if self._episode is None else self.get_state()
        return {**vars(self), "_episode": episode}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Go on from what `__getstate__` returned."""
        vars(self).update(state, _episode=None)
        if state["_episode"] is not None:
            self.set_state(self._task_id, state["_episode"])

    @property
    def episode(self) -> Playthrough:
        """The episode that is being played.

        Raises:
            EngineError: None was started.
        """
        if self._episode is None:
            raise EngineError("no episode was started")
        return self._episode

    def reset(self, task_id: str) -> str:
        """Start a task and return its first observation."""
        game = GAMES.get(self._games, task_id, self._grammar)
        self._task_id = task_id
        self._episode = Playthrough(game)
        return game.intro

    def step(self, action: str) -> str:
        """Take an action and return the answer."""
        return self.episode.step(action)

    def won(self) -> bool:
        """Tell whether the goal is reached."""
        return self.episode.won

    def admissible(self) -> list[str]:
        """Return the sorted admissible actions."""
        return self.episode.admissible()

    def get_state(self) -> dict[str, Any]:
        """Return the episode's snapshot."""
        return self.episode.get_state()

    def set_state(self, task_id: str, state: Any) -> None:
        """Continue from a snapshot of the same task."""
        game = GAMES.get(self._games, task_id, self._grammar)
        self._episode = Playthrough.from_state(game, state)
        self._task_id = task_id

    def close(self) -> None:
        """Forget the episode."""
        self._episode = None


class TextWorldBackend:
    """Plays on the official engine: the reference, about a thousand times slower.

    A snapshot is the list of actions so far, and is restored by taking them again.
    """

    def __init__(self, games: GameSource, action_grammar: ActionGrammar) -> None:
        """Prepare to play `games` in the given wording.

        Raises:
            MissingDependencyError: alfworld or textworld is not installed.
        """
        feature = "the official ALFWorld engine"
        self._textworld = require("textworld", feature=feature, extra="alfworld")
        self._pddl = require("textworld.envs.pddl.pddl", feature=feature, extra="alfworld")
        self._alfred = _import_alfworld(feature)
        if self._pddl.fast_downward_missing:
            require("fast_downward", feature=feature, extra="alfworld")
        self.version = f"alfworld {metadata.version('alfworld')}, textworld "
        self.version += metadata.version("textworld")
        self._games = games
        self._grammar = action_grammar
        self._env: Any = None
        self._task_id: str | None = None
        self._state: Any = None
        self._actions: list[str] = []

    def __getstate__(self) -> tuple[Any, ...]:
        """Leave out the engine: a copy starts one of its own and takes the actions again."""
        return self._games, self._grammar, self._task_id, self.get_state()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Go on from what `__getstate__` returned."""
        games, grammar, task_id, actions = state
        TextWorldBackend.__init__(self, games, grammar)
        if task_id is not None:
            self.set_state(task_id, actions)

    def reset(self, task_id: str) -> str:
        """Start a task and return its first observation."""
        if self._env is None or task_id != self._task_id:
            self.close()
            game = _with_grammar(self._games.text(task_id), self._grammar)
            infos = self._textworld.EnvInfos(won=True, admissible_commands=True)
            self._env = self._alfred.AlfredDemangler(self._pddl.PddlEnv(infos), shuffle=False)
            self._env.load(game)
            self._task_id = task_id
        self._state = self._env.reset()
        self._actions = []
        return str(self._state.feedback)

    def step(self, action: str) -> str:
        """Take an action and return the answer.

        Raises:
            EngineError: The official engine failed.
        """
        try:
            self._state, _, _ = self._env.step(action)
        except Exception as err:  # Whatever goes wrong in there is the engine's failure.
            raise EngineError(f"the official engine failed on {action!r}: {err!r}") from err
        self._actions.append(action)
        return str(self._state.feedback)

    def won(self) -> bool:
        """Tell whether the goal is reached."""
        return bool(self._state["won"])

    def admissible(self) -> list[str]:
        """Return the sorted admissible actions."""
        return list(self._state["admissible_commands"])

    def get_state(self) -> list[str]:
        """Return the actions so far."""
        return list(self._actions)

    def set_state(self, task_id: str, state: Any) -> None:
        """Start the task and take the actions again."""
        self.reset(task_id)
        for action in state:
            self.step(action)

    @property
    def episode(self) -> Playthrough:
        """The same actions on the own engine, which plays as the official one does.

        Raises:
            EngineError: No episode was started.
        """
        if self._task_id is None:
            raise EngineError("no episode was started")
        episode = Playthrough(GAMES.get(self._games, self._task_id, self._grammar))
        for action in self._actions:
            episode.step(action)
        return episode

    def close(self) -> None:
        """Free the planner's library."""
        if self._env is not None:
            self._env.close()
            self._env = self._task_id = self._state = None


def _import_alfworld(feature: str) -> Any:
    """Import the official naming of objects without its side effect on the user's cache folder."""
    if "ALFWORLD_DATA" in os.environ:
        return require(
            "alfworld.agents.environment.alfred_tw_env", feature=feature, extra="alfworld"
        )
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ALFWORLD_DATA"] = folder
        try:
            return require(
                "alfworld.agents.environment.alfred_tw_env", feature=feature, extra="alfworld"
            )
        finally:
            del os.environ["ALFWORLD_DATA"]


def _with_grammar(text: str, action_grammar: ActionGrammar) -> dict[str, Any]:
    """Parse a game file and rewrite it in the wording that was asked for."""
    try:
        game = json.loads(text)
        if action_grammar == "auto":
            return dict(game)
        game["grammar"] = force_grammar(game["grammar"], action_grammar)
        has_help = _HELP.search(game["pddl_domain"]) is not None
        if action_grammar == "put" and has_help:
            game["pddl_domain"] = _without_help(game["pddl_domain"])
        elif action_grammar == "move" and not has_help:
            game["pddl_domain"] = game["pddl_domain"].rstrip().removesuffix(")") + _HELP_ACTION
        if action_grammar == "move" and "action help" not in game["grammar"]:
            game["grammar"] += _HELP_RULE
    except (ValueError, RecursionError, TypeError, KeyError) as err:
        raise DataError(f"the game is malformed: {err!r}") from err
    return dict(game)


_HELP = re.compile(r"\(:action\s+help\b")


def _without_help(domain: str) -> str:
    """Take the action `help` out, up to the parenthesis that closes it at the start of a line."""
    kept, done = [], 0
    for action in _HELP.finditer(domain):
        end = domain.find("\n)", action.end())
        if action.start() >= done and end >= 0:
            kept.append(domain[done : action.start()])
            done = end + 2
        elif end < 0:
            break
    return "".join(kept) + domain[done:]


_HELP_ACTION = """
(:action help
    :parameters (?a - agent)
    :precondition
        ()
    :effect
        (and
            (checked ?a)
        )
)

)
"""
_HELP_RULE = f'''
action help {{
    template :: "help";
    feedback :: "#help.feedback#";

    grammar :: """
        {{
            "help.feedback": [
                {{
                    "rhs": {json.dumps(HELP_TEXT)}
                }}
            ]
        }}
    """;
}}
'''
