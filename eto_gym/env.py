"""The contract of a text environment: bare action strings in, plain observations out."""

from __future__ import annotations

import contextlib
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, get_args

import gymnasium as gym
import numpy as np

from eto_gym.errors import EtoGymError, UnknownNameError, check_choice
from eto_gym.expert import Expert, RandomPlayer
from eto_gym.history import Exchange, StateWriter, no_state
from eto_gym.prompt import Feedback, Prompt, with_reason
from eto_gym.spaces import UnicodeText
from eto_gym.tasks import Task, TaskSet


class TextEnv(gym.Env[str, str], ABC):
    """Base class of the text environments.

    Any string is a legal action. One that the engine does not know costs a step and gets the
    engine's own answer; `step` never raises because of an action's text.

    `reset(seed=..., options={"task": id_or_index})` selects the task. Without the option, tasks are
    drawn uniformly from `task_set` with `np_random`.

    `terminated` is true only when the task itself ended. `truncated` is true when the step limit
    was reached, or when the engine failed (`info["error"]` then names the kind).

    Every `info` of `reset` and `step` holds `task_id`, `task_type`, `score` (0..1 unless the
    benchmark documents otherwise), `success`, and, when the environment was made with
    `admissible_actions=True`, the sorted list `admissible_actions`. It never holds prompt text.

    `copy.deepcopy` and `pickle` give an environment, or its wrappers with it, that goes on as this
    one would, chance included, and that plays independently; what is read-only is shared.

    A benchmark implements `_reset`, `_step`, `_get_state`, `_set_state`, `card` and `prompt`,
    and may override the other underscore methods.
    """

    splits: ClassVar[tuple[str, ...]] = ()
    """Names of the splits that the argument `split` takes; empty: the class does not tell."""
    data_argument: ClassVar[str | None] = None
    """Name of the argument that takes `"builtin"` or a folder of data; None: there is none."""
    player_reads_actions: ClassVar[bool] = True
    """Whether `make_player`'s players need `admissible_actions=True`, where that is offered."""
    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi"], "render_fps": 4}  # type: ignore[misc]
    observation_space: UnicodeText
    action_space: UnicodeText

    def __init__(
        self,
        task_set: TaskSet,
        *,
        max_episode_steps: int | None = None,
        admissible_actions: bool = False,
        render_mode: str | None = None,
        feedback: Feedback = "plain",
    ) -> None:
        """Create the environment.

        Args:
            task_set: Tasks to draw from; must not be empty.
            max_episode_steps: Steps after which an episode is truncated. None (the default) sets no
                limit here, because `gym.make` applies the registered limit by a wrapper.
            admissible_actions: Put the admissible actions into every `info`; off by default because
                some engines need much time for the list.
            render_mode: "ansi" makes `render` return the last observation; None renders nothing.
            feedback: "helpful" answers an action that came to nothing with why, as far as the agent
                can see it; "plain" (the default) leaves the engine's words alone, as in the paper.

        Raises:
            EtoGymError: The set has no task.
            UnknownNameError: There is no such `feedback` or `render_mode`.
            ValueError: `max_episode_steps` is below 1.
        """
        check_choice("feedback", feedback, get_args(Feedback))
        if len(task_set) == 0:
            raise EtoGymError(f"split {task_set.split!r} holds no task")
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ValueError(f"expected max_episode_steps >= 1 or None, got {max_episode_steps}")
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise UnknownNameError(f"expected render_mode 'ansi' or None, got {render_mode!r}")
        self.observation_space = UnicodeText()
        self.action_space = UnicodeText()
        self.task_set = task_set
        self.max_episode_steps = max_episode_steps
        self.render_mode = render_mode
        self._want_admissible = admissible_actions
        self.feedback: Feedback = feedback
        self._first_observation = ""
        self._seen: list[Exchange] = []  # with helpful feedback only
        self._task: Task | None = None
        self._elapsed_steps = 0
        self._last_observation = ""

    # --- the Gymnasium interface ---------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start an episode and return its first observation and info.

        Args:
            seed: Seeds `np_random`, from which tasks are drawn.
            options: `{"task": id_or_index}` selects the task; benchmarks may document more keys.

        Raises:
            TypeError: The options are no dictionary.
            UnknownNameError: There is no such option or task.
        """
        if not (options is None or isinstance(options, Mapping)):
            raise TypeError(f"expected options of type dict or None, got {options!r:.80}")
        super().reset(seed=seed)
        options = dict(options or {})
        unknown = set(options) - self._option_names()
        if unknown:
            raise UnknownNameError(
                f"expected reset options among {sorted(self._option_names())}, "
                f"got {sorted(map(str, unknown))}"
            )
        ref = options.pop("task", None)
        task = self._draw_task() if ref is None else self._find_task(ref)
        with self._on_task(task):
            self._last_observation = self._first_observation = self._reset(task, options)
        self._elapsed_steps = 0
        self._seen = []
        return self._last_observation, self._full_info()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take a bare action and return (observation, reward, terminated, truncated, info).

        Raises:
            TypeError: The action is not a string.
            EtoGymError: `reset` was never called.
        """
        if self._task is None:
            raise EtoGymError("step was called before reset")
        if not isinstance(action, str):
            raise TypeError(f"expected an action of type str, got {type(action).__name__}")
        if self.feedback == "plain":
            observation, reward, terminated, truncated = self._step(action)
        else:
            observation, reward, terminated, truncated = self._step_and_explain(action)
        self._elapsed_steps += 1
        limit = self.step_limit
        truncated = truncated or (limit is not None and self._elapsed_steps >= limit)
        self._last_observation = observation
        return observation, reward, terminated, truncated, self._full_info()

    def _step_and_explain(self, action: str) -> tuple[str, float, bool, bool]:
        before = self._before_step()
        observation, reward, terminated, truncated = self._step(action)
        reason = ""
        if not (terminated or truncated):
            reason = self._explain(action, observation, self._first_observation, self._seen, before)
        self._seen.append(Exchange(action, observation))
        return with_reason(observation, reason), reward, terminated, truncated

    def render(self) -> str | None:
        """Return the last observation in render mode "ansi", else None."""
        return self._last_observation if self.render_mode == "ansi" else None

    # --- what eto-gym adds ----------------------------------------------------------------------

    @property
    def task(self) -> Task:
        """The task of the current episode.

        Raises:
            EtoGymError: `reset` was never called.
        """
        if self._task is None:
            raise EtoGymError("there is no current task before reset")
        return self._task

    @property
    def step_limit(self) -> int | None:
        """Steps after which the current episode is truncated; benchmarks may set one per task."""
        return self.max_episode_steps

    def lane(self) -> Hashable | None:
        """Return what a step of this environment keeps busy, where that is not this process.

        Steps of environments with different lanes run at the same time when threads take them.
        None, the default, says that threads would gain nothing.
        """
        return None

    @abstractmethod
    def card(self) -> dict[str, Any]:
        """Describe what was run: benchmark, engine and its version, data, split, settings.

        The card is JSON-serialisable and is recorded with every trajectory.
        """

    @abstractmethod
    def prompt(self) -> Prompt:
        """Return the instruction and worked example that introduce this benchmark to an agent."""

    def state_writer(self) -> StateWriter:
        """Return what writes the state block of `history="state"`, see `eto_gym.history`.

        The default writes none: the agent then reads the task and the last exchanges.
        """
        return no_state

    def make_expert(self) -> Expert:
        """Return a scripted expert for the current episode, where the benchmark has one.

        Raises:
            EtoGymError: The benchmark has none; so it is by default.
        """
        raise EtoGymError(f"{type(self).__name__} has no scripted expert")

    def make_player(self, seed: int) -> Expert:
        """Return a scripted player of varied, aimless play; the default acts at random.

        Its play shows how the world answers, not how the task is solved: a small language model
        can learn the world's language from it before it sees any demonstration. The default needs
        `admissible_actions=True`.

        Args:
            seed: Decides what is played.
        """
        return RandomPlayer(np.random.default_rng(seed))

    def state_key(self) -> str:
        """Return a name of the present state: equal where all that may follow is equal.

        It is the same in every process. The clock is left out (a step limit ends episodes earlier
        or later), and so is chance. Benchmarks whose key is equal in all equal states say so; the
        default is a hash of the task and of `_get_state`, so that states with one key have one
        future, while a snapshot that remembers the past tells equal states apart.
        """
        return state_digest(self.task.id, self._get_state())

    def cost_to_go(self) -> int | None:
        """Return how many steps the best player known needs from here to success.

        0 exactly at a success. None where it is not known, where success is out of reach, and, by
        default, always: an environment need not offer it. Asking changes nothing. Benchmarks say
        what it costs, and whether it is exact.
        """
        return None

    def milestones(self) -> float:
        """Return which share of the task's sub-goals is reached, in 0..1; 1.0 at a success.

        The default knows no sub-goals and returns the score, within these bounds.
        """
        info = self._info()
        return 1.0 if info["success"] else min(1.0, max(0.0, float(info["score"])))

    def get_state(self) -> dict[str, Any]:
        """Return a JSON-serialisable snapshot of the episode, `np_random` excluded.

        To snapshot an environment together with its wrappers (the step limit of `gym.make` is one)
        use `eto_gym.get_state(env)`.
        """
        state = {
            "task_id": self.task.id,
            "elapsed_steps": self._elapsed_steps,
            "observation": self._last_observation,
            "engine": self._get_state(),
        }
        if self.feedback != "plain":
            state["seen"] = [self._first_observation, *map(list, self._seen)]
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a snapshot, taken from this environment or another of the same making.

        The snapshot is not changed by later steps, so it can be set any number of times.
        """
        task = self._find_task(state["task_id"])
        with self._on_task(task):
            self._set_state(task, state["engine"])
        self._elapsed_steps = state["elapsed_steps"]
        self._last_observation = state["observation"]
        first, *seen = state.get("seen", [""])  # a snapshot of plain feedback has none
        self._first_observation, self._seen = first, [Exchange(*step) for step in seen]

    @contextlib.contextmanager
    def _on_task(self, task: Task) -> Iterator[None]:
        """Have this task while the engine turns to it; where that fails, the last one stays."""
        before, self._task = self._task, task
        try:
            yield
        except BaseException:
            self._task = before
            raise

    # --- what a benchmark implements -------------------------------------------------------------

    @abstractmethod
    def _reset(self, task: Task, options: dict[str, Any]) -> str:
        """Start the engine on `task` and return the first observation."""

    @abstractmethod
    def _step(self, action: str) -> tuple[str, float, bool, bool]:
        """Advance the engine; return (observation, reward, terminated, engine failed)."""

    @abstractmethod
    def _info(self) -> dict[str, Any]:
        """Return `score`, `success` and the benchmark's own documented keys."""

    def _admissible_actions(self) -> list[str]:
        """Return the sorted admissible actions in the current state."""
        raise EtoGymError(f"{type(self).__name__} does not list admissible actions")

    @abstractmethod
    def _get_state(self) -> Any:
        """Return the engine's JSON-serialisable state."""

    @abstractmethod
    def _set_state(self, task: Task, state: Any) -> None:
        """Restore the engine from what `_get_state` returned."""

    def _before_step(self) -> Any:
        """Return what `_explain` needs to know of what was seen before a step."""
        return None

    def _explain(
        self, action: str, observation: str, first: str, seen: Sequence[Exchange], before: Any
    ) -> str:
        """Return why an action came to nothing, from what the agent has seen; "" for no reason.

        Args:
            action: The action.
            observation: The engine's answer.
            first: The first observation.
            seen: The steps before this one.
            before: What `_before_step` returned.
        """
        return ""

    def _card_of_feedback(self) -> dict[str, Any]:
        """Return what the card says of the feedback: nothing where it is plain, as ever."""
        return {} if self.feedback == "plain" else {"feedback": self.feedback}

    def _option_names(self) -> set[str]:
        """Name the keys that `reset` takes in its options."""
        return {"task"}

    def _find_task(self, ref: str | int) -> Task:
        """Resolve `options["task"]`."""
        return self.task_set.get(ref)

    def _draw_task(self) -> Task:
        """Draw a task when none was asked for."""
        return self.task_set[int(self.np_random.integers(len(self.task_set)))]

    def _full_info(self) -> dict[str, Any]:
        task = self.task
        info = {"task_id": task.id, "task_type": task.type, **self._info()}
        if self._want_admissible:
            info["admissible_actions"] = self._admissible_actions()
        return info


def state_digest(*parts: object) -> str:
    """Return a hash of JSON-serialisable parts that is the same in every process."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def text_env(env: gym.Env[Any, Any]) -> TextEnv:
    """Return the text environment under the wrappers of `env`.

    Raises:
        EtoGymError: It is no text environment.
    """
    inner = env.unwrapped
    if not isinstance(inner, TextEnv):
        raise EtoGymError(
            f"expected a text environment (eto_gym.TextEnv), got {type(inner).__name__}"
        )
    return inner
