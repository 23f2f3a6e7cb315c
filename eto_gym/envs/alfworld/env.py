"""The ALFWorld environment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from eto_gym.env import TextEnv, state_digest
from eto_gym.envs.alfworld.backends import Backend, EngineBackend, TextWorldBackend
from eto_gym.envs.alfworld.engine.distance import goal_share, steps_to_goal
from eto_gym.envs.alfworld.engine.state_key import state_parts
from eto_gym.envs.alfworld.engine.wording import ActionGrammar
from eto_gym.envs.alfworld.games import GAMES, open_games, tasks_digest
from eto_gym.envs.alfworld.prompt import make_prompt
from eto_gym.envs.alfworld.recap import HouseRecap
from eto_gym.envs.alfworld.why import explain
from eto_gym.errors import EngineError, check_choice
from eto_gym.expert import Expert
from eto_gym.history import Exchange, StateWriter
from eto_gym.prompt import Feedback, Prompt
from eto_gym.tasks import Task, choose_types

if TYPE_CHECKING:
    from eto_gym.envs.alfworld.players.players import PlayerName

ObservationStyle = Literal["full", "eto"]
BackendName = Literal["engine", "textworld"]

_ARRIVAL = "You arrive at loc "


class ALFWorldEnv(TextEnv):
    """Household tasks in text: find things, treat them, and bring them where they belong.

    ## Description
    ALFWorld (Shridhar et al., 2021) plays the tasks of ALFRED as text games: the agent walks
    between receptacles (cabinets, drawers, tables, appliances), opens and closes them, and takes,
    heats, cools, cleans and moves objects. There are six types of tasks: put an object somewhere,
    put two there, put it there clean, hot or cool, and examine an object under a lamp. The games
    come from the built-in generator or from the official files.

    ## Action Space
    Any string. Admissible actions look like `go to desk 1`, `open drawer 2`, `take mug 1 from
    shelf 3`, `put mug 1 in/on desk 1` (in other games `move mug 1 to desk 1`), `use desklamp 1`,
    `heat egg 1 with microwave 1`, `examine desk 1`, `inventory`, `look`. White space around an
    action does not matter. Everything else gets `Nothing happens.` and costs a step.

    ## Observation Space
    The engine's text. The first observation names the receptacles and the task. The style "eto"
    trims it as the ETO paper did.

    ## Starting State
    The agent is in the middle of a room and holds nothing; where objects are is for it to find out.

    ## Rewards
    1.0 on the step that reaches the goal, once; else 0.0.

    ## Episode End
    ### Termination
    When the goal is reached.
    ### Truncation
    After `max_episode_steps` (40 when made by `gym.make`, as in the paper), or when the official
    engine fails (`info["error"]` is then "engine").

    ## Information
    `task_id` (`<task folder>/<trial folder>`), `task_type`, `score` (1.0 once the goal is reached,
    else 0.0), `success`, and `admissible_actions` where they were asked for.

    ## Arguments
    See `__init__`. `reset(options={"task": id_or_index})` selects a game.

    ## Version History
    * v0: first version.
    """

    splits = ("train", "dev", "test")
    data_argument = "data"

    def __init__(
        self,
        data: str | Path = "builtin",
        split: str = "train",
        *,
        task_types: Sequence[str] | None = None,
        action_grammar: ActionGrammar = "auto",
        observation: ObservationStyle = "full",
        backend: BackendName = "engine",
        admissible_actions: bool = False,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        feedback: Feedback = "plain",
    ) -> None:
        """Create the environment.

        Args:
            data: "builtin" (the default, needs no download) or a folder of official games.
                "builtin:small" and "builtin:large" have houses of 5-7 and 10-34 receptacles;
                those of "builtin" have 6-14.
            split: "train", "dev" or "test"; for official games also "valid_seen" (the same as
                "dev"), "valid_unseen" ("test"), and "eto_test" (test in the paper's order).
            task_types: Only the games of these types ("pick_and_place_simple", ...); None (the
                default) leaves the split whole. What is measured on a part compares with no paper.
            action_grammar: "auto" (the default) takes the wording from each game's file. "put"
                forces `put X in/on Y`, for which expert data and published scores are; "move"
                forces `move X to Y`, as of alfworld 0.4. A policy that was trained on the one does
                badly on the other.
            observation: "full" (the default) gives the engine's text whole; "eto" leaves out the
                banner and `You arrive at loc N.`, as the paper did.
            backend: "engine" (the default) is our own, fast and equal to the official one step by
                step; "textworld" is the official one, which needs the extra `alfworld`.
            admissible_actions: Put the admissible actions into every `info`.
            max_episode_steps: Steps after which an episode is truncated; None sets no limit here
                (`gym.make` sets 40).
            render_mode: "ansi" makes `render` return the last observation.
            feedback: See `TextEnv`.

        Raises:
            UnknownNameError: An argument names something that does not exist.
            DataError: The folder is missing or holds no playable game.
            MissingDependencyError: The official engine is not installed.
        """
        check_choice("action_grammar", action_grammar, get_args(ActionGrammar))
        check_choice("observation", observation, get_args(ObservationStyle))
        check_choice("backend", backend, get_args(BackendName))
        self._games = open_games(data, split, action_grammar)
        super().__init__(
            choose_types(self._games.task_set, task_types),
            max_episode_steps=max_episode_steps,
            admissible_actions=admissible_actions,
            render_mode=render_mode,
            feedback=feedback,
        )
        self._task_types = None if task_types is None else sorted(task_types)
        self._action_grammar = action_grammar
        self._observation_style = observation
        self._backend_name = backend
        self._backend: Backend = (
            EngineBackend(self._games, action_grammar)
            if backend == "engine"
            else TextWorldBackend(self._games, action_grammar)
        )
        self._won = False
        self._failed = False

    def card(self) -> dict[str, Any]:
        """Describe the benchmark, engine, data and settings."""
        chosen = {} if self._task_types is None else {"task_types": self._task_types}
        return {
            **chosen,
            "benchmark": "alfworld",
            "env": "ETO/ALFWorld-v0",
            "backend": self._backend_name,
            "backend_version": self._backend.version,
            "data": self._games.name,
            "split": self.task_set.split,
            "tasks": len(self.task_set),
            "tasks_digest": tasks_digest(self.task_set),
            "action_grammar": self._action_grammar,
            "observation": self._observation_style,
            **self._card_of_feedback(),
        }

    def prompt(self) -> Prompt:
        """Return the instruction and worked example, in the wording of the games.

        With `action_grammar="auto"` that is the wording of the current game, or before the first
        episode that of the split's first game.
        """
        return make_prompt(self._verb(), self._observation_style)

    def state_writer(self) -> StateWriter:
        """Return what tells where the agent is, what it holds and what was found where."""
        return HouseRecap

    def make_expert(self) -> Expert:
        """Return the scripted expert, which sees no more than an agent does.

        It reads observations of both styles, and starts with the one that `reset` returned.
        """
        from eto_gym.envs.alfworld.players.expert import ALFWorldExpert

        return ALFWorldExpert(verb=self._verb())

    def make_player(self, seed: int) -> Expert:
        """Return a player that runs errands of its own, or, one time in ten, acts at random.

        The errands have nothing to do with the task. The random player needs
        `admissible_actions=True`.
        """
        from eto_gym.envs.alfworld.players.players import make_player

        rng = np.random.default_rng(seed)
        name: PlayerName = "explorer" if rng.random() < 0.9 else "random"
        return make_player(name, rng, verb=self._verb())

    def state_key(self) -> str:
        """Return a name of the state: equal exactly where all play after it is equal."""
        return state_digest(self.task.id, self._won, state_parts(self._backend.episode))

    def cost_to_go(self) -> int | None:
        """Return the least number of steps to the goal, exactly; see `engine.distance`.

        The player knows where everything is, which an agent does not. It takes well below a
        millisecond. None where the goal is out of reach, or of no official type.
        """
        return steps_to_goal(self._backend.episode)

    def milestones(self) -> float:
        """Return which share of the goal's parts is reached, see `engine.distance.goal_share`."""
        return goal_share(self._backend.episode)

    def close(self) -> None:
        """Free the engine."""
        self._backend.close()
        super().close()

    def _reset(self, task: Task, options: dict[str, Any]) -> str:
        self._failed = False
        observation = self._backend.reset(task.id)
        # A game that starts solved, should there be one, pays on the first step.
        self._won = False
        if self._observation_style == "eto":
            return "\n".join(observation.split("\n\n")[1:])
        return observation

    def _step(self, action: str) -> tuple[str, float, bool, bool]:
        try:
            observation = self._backend.step(action)
            won = self._backend.won()
        except EngineError:
            self._failed = True
            return "", 0.0, False, True
        reward = 1.0 if won and not self._won else 0.0
        self._won = self._won or won
        if self._observation_style == "eto" and observation.startswith(_ARRIVAL):
            observation = observation[observation.find(". ") + 2 :]
        return observation, reward, won, False

    def _info(self) -> dict[str, Any]:
        won = self._backend.won()
        info: dict[str, Any] = {"score": 1.0 if won else 0.0, "success": won}
        if self._failed:
            info["error"] = "engine"
        return info

    def _verb(self) -> Literal["put", "move"]:
        if self._action_grammar != "auto":
            return self._action_grammar
        task = self.task_set[0] if self._task is None else self._task
        return GAMES.get(self._games, task.id, self._action_grammar).wording.verb

    def _admissible_actions(self) -> list[str]:
        return self._backend.admissible()

    def _explain(
        self, action: str, observation: str, first: str, seen: Sequence[Exchange], before: Any
    ) -> str:
        return explain(action, observation, first, seen, verb=self._verb())

    def _get_state(self) -> dict[str, Any]:
        return {"game": self._backend.get_state(), "paid": self._won}

    def _set_state(self, task: Task, state: Any) -> None:
        self._backend.set_state(task.id, state["game"])
        self._won = bool(state["paid"])
        self._failed = False
