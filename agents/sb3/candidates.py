"""A text environment as a choice among its admissible actions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast, get_args

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Space
from numpy.typing import NDArray

from eto_gym.agents.sb3.features import HashedText, TextFeatures
from eto_gym.errors import EtoGymError, check_choice

Overflow = Literal["error", "sample"]
Arrays = dict[str, NDArray[Any]]

NO_ACTION = ""
"""Played for a padded place, and offered where nothing is admissible: it costs a step."""

_SLOT = re.compile(r"<\w+>")
_SEPARATOR = " [SEP] "
_CODE = re.compile(r"click\[([a-z0-9]{10})\]")


def fill_slot(action: str, task: str) -> str:
    """Replace a slot such as `<query>` in an action by what the task asks for.

    That is the longest part of the first observation between its separators, without the clause
    on the price: a shop's search finds nothing by it.

    Example:
        >>> fill_slot("search[<query>]", "Shop [SEP] a red mug, and price lower than 9.00 dollars")
        'search[a red mug]'
        >>> fill_slot("open door", "Open the door.")
        'open door'
    """
    if not _SLOT.search(action):
        return action
    wish = max(task.split(_SEPARATOR), key=len).split(", and price lower than")[0]
    return _SLOT.sub(lambda _: wish, action)


def describe_action(action: str, observation: str) -> str:
    """Return the text that stands for an action in its features: the action, and what it names.

    A click on a product's code says nothing by itself; the page shows the product's name and price
    behind the code.

    Example:
        >>> describe_action("click[b0abcdefgh]", "Next > [SEP] B0ABCDEFGH [SEP] Red Mug [SEP] $5")
        'click[b0abcdefgh] Red Mug $5'
        >>> describe_action("go north", "You are here.")
        'go north'
    """
    match = _CODE.fullmatch(action)
    if not match:
        return action
    parts = observation.split(_SEPARATOR)
    for i, part in enumerate(parts):
        if part.strip().lower() == match.group(1):
            return " ".join([action, *parts[i + 1 : i + 3]])
    return action


class Candidates:
    """The candidates of one episode, turn by turn, and the arrays that describe them.

    Arrays of a turn (the keys of `space`): features of the `task` (the episode's first
    observation), of the last `observation`, and of the actions of late (`history`); features of the
    `candidates`, laid end to end; how often each was `taken` in this episode; and the `mask` of the
    places that hold a candidate. At least one place does.
    """

    def __init__(
        self,
        features: TextFeatures | None = None,
        *,
        max_candidates: int = 64,
        overflow: Overflow = "error",
        history: int = 8,
        fill: Callable[[str, str], str] = fill_slot,
        describe: Callable[[str, str], str] = describe_action,
    ) -> None:
        """Create the state; `begin` starts an episode.

        Args:
            features: Turns text into numbers; None takes `HashedText()`.
            max_candidates: Places. 64 hold every action of the built-in ALFWorld and WebShop tasks.
            overflow: What happens when more actions are admissible: "error" raises; "sample" keeps
                a uniform sample, drawn anew each turn, and counts what was left out in `dropped`.
                An action that is left out cannot be taken that turn.
            history: Actions that `history` covers.
            fill: Makes a playable action of one with a slot, given the first observation.
            describe: Gives the text of an action's features, given the observation.

        Raises:
            ValueError: `max_candidates` or `history` is below 1.
            UnknownNameError: There is no such `overflow`.
        """
        if max_candidates < 1 or history < 1:
            raise ValueError(
                "expected max_candidates and history of at least 1, got "
                f"{max_candidates} and {history}"
            )
        check_choice("overflow", overflow, get_args(Overflow))
        self.features: TextFeatures = HashedText() if features is None else features
        self.max_candidates = max_candidates
        self._overflow = overflow
        self._history = history
        self._fill = fill
        self._describe = describe
        self.space = Dict(
            {
                "task": self.features.space(),
                "observation": self.features.space(),
                "history": self.features.space(),
                "candidates": self.features.space(max_candidates),
                "taken": Box(0, 127, (max_candidates,), np.int8),
                "mask": MultiBinary(max_candidates),
            }
        )
        self.actions: list[str] = []
        """The candidates of this turn, in the order of their places."""
        self.dropped = 0
        """Admissible actions that this turn has no place for."""
        self._task = ""
        self._observation = ""
        self._played: list[str] = []
        self._taken: Counter[str] = Counter()

    def begin(self, observation: str, info: dict[str, Any], rng: np.random.Generator) -> None:
        """Start an episode with what `reset` returned; `rng` draws samples of candidates."""
        self._task = observation
        self._played = []
        self._taken = Counter()
        self.advance(observation, info, rng)

    def advance(self, observation: str, info: dict[str, Any], rng: np.random.Generator) -> None:
        """Go on with what `step` returned.

        Raises:
            EtoGymError: `info` lists no admissible actions, or too many for overflow "error".
        """
        listed = info.get("admissible_actions")
        if listed is None:
            raise EtoGymError(
                "candidates need info['admissible_actions']: make the environment with "
                "admissible_actions=True"
            )
        self._observation = observation
        actions = [self._fill(action, self._task) for action in listed] or [NO_ACTION]
        self.dropped = max(0, len(actions) - self.max_candidates)
        if self.dropped:
            if self._overflow == "error":
                raise EtoGymError(
                    f"{len(actions)} actions are admissible and max_candidates is "
                    f"{self.max_candidates}: raise it, or choose overflow='sample'"
                )
            kept = rng.choice(len(actions), self.max_candidates, replace=False, shuffle=False)
            actions = [actions[i] for i in sorted(kept)]
        self.actions = actions

    def choose(self, place: int) -> str:
        """Return the action at a place and note that it was taken; `NO_ACTION` for padding.

        Raises:
            EtoGymError: There is no such place.
        """
        if not 0 <= place < self.max_candidates:
            raise EtoGymError(f"expected a place in 0..{self.max_candidates - 1}, got {place}")
        action = self.actions[place] if place < len(self.actions) else NO_ACTION
        self._played.append(action)
        self._taken[action] += 1
        return action

    def mask(self) -> NDArray[np.bool_]:
        """Return which places hold a candidate, shape `(max_candidates,)`."""
        return np.arange(self.max_candidates) < len(self.actions)

    def texts(self) -> list[str]:
        """Return the texts whose features `arrays` needs, in order."""
        described = [self._describe(action, self._observation) for action in self.actions]
        recent = "\n".join(self._played[-self._history :])
        return [self._task, self._observation, recent, *described]

    def arrays(self, rows: NDArray[Any]) -> Arrays:
        """Return the arrays of this turn, given the features of `texts`."""
        count = len(self.actions)
        candidates = np.zeros((self.max_candidates, self.features.dim), rows.dtype)
        candidates[:count] = rows[3:]
        taken = np.zeros(self.max_candidates, np.int8)
        taken[:count] = [min(self._taken[action], 127) for action in self.actions]
        return {
            "task": rows[0],
            "observation": rows[1],
            "history": rows[2],
            "candidates": candidates.reshape(-1),
            "taken": taken,
            "mask": self.mask().astype(np.int8),
        }


class CandidatesEnv(gym.Wrapper[Arrays, int, str, str]):
    """Takes the place of a candidate as the action of `step`, and describes the candidates.

    The observation is that of `Candidates`. A place that holds no candidate is played as the empty
    string, which costs a step like any action that an engine does not know. `info` gains
    `candidates` (the actions, in order), `candidates_dropped` and `invalid_choice`.

    Example:
        >>> import eto_gym
        >>> env = CandidatesEnv(gym.make("ETO/ALFWorld-v0", admissible_actions=True))
        >>> observation, info = env.reset(seed=0)
        >>> int(observation["mask"].sum()) == len(info["candidates"])
        True
        >>> observation, *_ = env.step(info["candidates"].index("look"))
        >>> int(observation["taken"].sum())
        1
    """

    def __init__(self, env: gym.Env[str, str], **options: Any) -> None:
        """Wrap a text environment that was made with `admissible_actions=True`.

        Args:
            env: The environment, with any wrappers around it.
            options: Those of `Candidates`.
        """
        # Gymnasium's types say that a wrapper's spaces are those of what it wraps.
        super().__init__(cast("gym.Env[Arrays, int]", env))
        self._text_env = env
        self.choices = Candidates(**options)
        self.observation_space = cast("Space[Arrays]", self.choices.space)
        self.action_space = cast("Space[int]", Discrete(self.choices.max_candidates))
        self._rng = np.random.default_rng()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Arrays, dict[str, Any]]:
        """Start an episode; `seed` seeds the samples of candidates too."""
        observation, info = self._text_env.reset(seed=seed, options=options)
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self.choices.begin(observation, info, self._rng)
        return self._described(), self._noted(info, invalid=False)

    def step(self, action: int) -> tuple[Arrays, float, bool, bool, dict[str, Any]]:
        """Play the candidate at a place."""
        invalid = action >= len(self.choices.actions)
        text = self.choices.choose(int(action))
        observation, reward, terminated, truncated, info = self._text_env.step(text)
        self.choices.advance(observation, info, self._rng)
        noted = self._noted(info, invalid=bool(invalid))
        return self._described(), float(reward), terminated, truncated, noted

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which actions may be taken now, under the name that sb3-contrib asks for."""
        return self.choices.mask()

    def _described(self) -> Arrays:
        return self.choices.arrays(self.choices.features(self.choices.texts()))

    def _noted(self, info: dict[str, Any], *, invalid: bool) -> dict[str, Any]:
        return {
            **info,
            "candidates": list(self.choices.actions),
            "candidates_dropped": self.choices.dropped,
            "invalid_choice": invalid,
        }


def describe_all(states: Sequence[Candidates]) -> list[Arrays]:
    """Return the arrays of several episodes that share their features, computed in one call."""
    texts = [state.texts() for state in states]
    rows = states[0].features([text for part in texts for text in part])
    ends = np.cumsum([len(part) for part in texts])
    return [
        state.arrays(rows[end - len(part) : end])
        for state, part, end in zip(states, texts, ends, strict=True)
    ]
