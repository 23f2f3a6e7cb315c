"""Sessions: who plays what. No protocol is known here, and nothing waits."""

from __future__ import annotations

import dataclasses
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import gymnasium as gym

from eto_gym.env import text_env
from eto_gym.errors import EtoGymError, UnknownNameError, check_choice, unknown_name
from eto_gym.registration import env_class, make_text_env, resolve_env_id
from eto_gym.snapshot import get_state, set_state
from eto_gym.tasks import TaskSet

_FORKS = 16
"""Snapshots that are kept for one session; a further one takes the place of the oldest."""
_RESET = ("env", "split", "task", "seed", "admissible_actions", "fork", "episode_id")
_TASKS = 100_000
"""Tasks of one answer at most: about 10 MB of JSON, made in less than half a second."""


class AtCapacityError(EtoGymError):
    """As many sessions are open as are allowed."""


class Choice(NamedTuple):
    """What a session plays: with the same choice an environment is used again."""

    env_id: str
    split: str | None
    admissible_actions: bool


@dataclass(frozen=True, slots=True)
class Fork:
    """A moment of an episode: enough to go on from it in another session."""

    choice: Choice
    state: dict[str, Any]
    episode: Episode
    observation: dict[str, Any]


@dataclass(slots=True)
class Episode:
    """What is known of the episode that a session plays."""

    task_id: str = ""
    episode_id: str = ""
    steps: int = 0
    earned: float = 0.0
    ended: bool = True


class Arena:
    """The environments that are offered, and the sessions that play them.

    Methods may be called from several threads; a session's from one at a time.

    Attributes:
        env_ids: Registered ids that may be played, the default first.
    """

    def __init__(
        self,
        env_ids: Sequence[str],
        *,
        env_kwargs: Mapping[str, Any] | None = None,
        max_sessions: int = 256,
    ) -> None:
        """Check the ids; environments are made when they are first asked for.

        Args:
            env_ids: Registered ids, or short names.
            env_kwargs: Arguments of `gym.make` for all of them.
            max_sessions: Open sessions at most.

        Raises:
            EtoGymError: An id is unknown or no text environment's.
        """
        if not env_ids or max_sessions < 1:
            raise EtoGymError("expected at least one environment and max_sessions >= 1")
        self.env_ids = tuple(resolve_env_id(name) for name in env_ids)
        self.max_sessions = max_sessions
        self._kwargs = dict(env_kwargs or {})
        self._classes = {env_id: env_class(env_id) for env_id in self.env_ids}
        self._lock = threading.RLock()
        self._open: dict[str, Session] = {}
        self._forks: dict[str, tuple[str, Fork]] = {}  # name -> session, moment
        self._tasks: dict[tuple[str, str | None], TaskSet] = {}

    def open(self) -> Session:
        """Begin a session.

        Raises:
            AtCapacityError: There are `max_sessions` already.
        """
        with self._lock:
            if len(self._open) >= self.max_sessions:
                raise AtCapacityError(f"{len(self._open)} sessions are open, which is the limit")
            session = Session(self, secrets.token_urlsafe(12))
            self._open[session.name] = session
            return session

    def splits(self, env_id: str | None = None) -> tuple[str, ...]:
        """Return the splits of an environment, or its default one where it does not tell."""
        chosen = self.choose_env(env_id)
        return self._classes[chosen].splits or (self.tasks(chosen, None).split,)

    def tasks(self, env_id: str | None, split: str | None) -> TaskSet:
        """Return the tasks of a split.

        Raises:
            UnknownNameError: There is no such environment or split.
        """
        key = (self.choose_env(env_id), split)
        self.check_split(*key)
        with self._lock:
            if key not in self._tasks:
                env = self.make(Choice(*key, admissible_actions=False))
                try:
                    self._tasks[key] = text_env(env).task_set
                finally:
                    env.close()
            return self._tasks[key]

    def choose_env(self, env_id: object) -> str:
        """Return the id that a name stands for; None stands for the first one.

        Raises:
            UnknownNameError: It is not offered.
        """
        if env_id is None:
            return self.env_ids[0]
        for known in self.env_ids:
            short = known.rpartition(":")[2].rpartition("/")[2]
            names = (known, short, short.rpartition("-v")[0], known.replace("/", "--"))
            if str(env_id).lower() in map(str.lower, names):
                return known
        raise unknown_name("environment", str(env_id)[:80], self.env_ids)

    def check_split(self, env_id: str, split: str | None) -> None:
        """Raise `UnknownNameError` unless an environment has this split."""
        known = self._classes[env_id].splits
        if split is not None and known:
            check_choice("split", str(split)[:80], known)

    def make(self, choice: Choice) -> gym.Env[str, str]:
        """Make an environment."""
        kwargs = dict(self._kwargs)
        if choice.split is not None:
            kwargs["split"] = choice.split
        if choice.admissible_actions:
            kwargs["admissible_actions"] = True
        return make_text_env(choice.env_id, **kwargs)

    def keep(self, session: str, fork: Fork) -> str:
        """Keep a moment and return its name; it goes with the session that it is of."""
        with self._lock:
            own = [name for name, (owner, _) in self._forks.items() if owner == session]
            for name in own[: len(own) + 1 - _FORKS]:
                del self._forks[name]
            name = secrets.token_urlsafe(12)
            self._forks[name] = (session, fork)
            return name

    def fork(self, name: object) -> Fork:
        """Return a moment that was kept.

        Raises:
            UnknownNameError: There is none of this name.
        """
        with self._lock:
            if (found := self._forks.get(str(name))) is None:
                raise UnknownNameError(
                    "there is no such fork: it may have gone with its session, "
                    f"which keeps the last {_FORKS}"
                )
            return found[1]

    def forget(self, session: Session) -> None:
        """Drop a session and what is kept for it."""
        with self._lock:
            self._open.pop(session.name, None)
            for name in [n for n, (owner, _) in self._forks.items() if owner == session.name]:
                del self._forks[name]

    def close(self) -> None:
        """Close every session."""
        for session in list(self._open.values()):
            session.close()


@dataclass(slots=True)
class Session:
    """One player. `close` it when it is done; closing twice does nothing."""

    arena: Arena
    name: str
    _env: gym.Env[str, str] | None = None
    _choice: Choice | None = None
    _episode: Episode = field(default_factory=Episode)
    _closed: bool = False

    def reset(self, **options: Any) -> dict[str, Any]:
        """Begin an episode, and return its first observation.

        Args:
            **options: All may be left out. `env`: id; `split`; `task`: id or index within the
                split; `seed`: draws the task; `admissible_actions`: whether observations list
                them; `fork`: name of a moment to go on from instead; `episode_id`: any text.

        Raises:
            EtoGymError: An option is unknown or has no meaning.
        """
        options = {name: value for name, value in options.items() if value is not None}
        for name in options:
            if name not in _RESET:
                raise unknown_name("reset option", str(name)[:80], _RESET)
        if self._closed:
            raise EtoGymError("the session is closed")
        episode_id = str(options.get("episode_id", ""))[:255] or secrets.token_hex(8)
        if "fork" in options:
            if others := sorted(options.keys() - {"fork", "episode_id"}):
                raise EtoGymError(
                    f"a fork says what is played: leave out {', '.join(others)}, or leave out fork"
                )
            return self._continue(self.arena.fork(options["fork"]), episode_id)
        seed, task = options.get("seed"), options.get("task")
        if seed is not None and (type(seed) is not int or not 0 <= seed < 1 << 63):
            raise EtoGymError(f"expected a whole number from 0 on as seed, got {str(seed)[:40]!r}")
        choice = self._choose(options)
        env = self._enter(choice)
        self._episode = Episode()
        chosen = {} if task is None else {"options": {"task": task}}
        text, info = env.reset(seed=seed, **chosen)
        self._episode = Episode(str(info["task_id"]), episode_id, ended=False)
        prompt = text_env(env).prompt()
        return {
            **self._told(text, None, info),
            "metadata": {"env": choice.env_id, "instruction": prompt.instruction},
        }

    def step(self, action: object, *, fork: bool = False) -> dict[str, Any]:
        """Take an action.

        Args:
            action: Any text.
            fork: Keep the moment after it, and tell its name in the metadata.

        Raises:
            EtoGymError: The action is no text, or no episode is under way.
        """
        if not isinstance(action, str):
            raise EtoGymError(f"expected a text as action, got {type(action).__name__}")
        episode = self._episode
        if self._env is None or self._choice is None or episode.ended:
            raise EtoGymError("no episode is under way: reset first")
        episode.ended = True  # in case this fails
        text, reward, terminated, truncated, info = self._env.step(action)
        episode.steps += 1
        episode.earned += float(reward)
        episode.ended = terminated or truncated
        told = self._told(text, float(reward), info)
        told["observation"] |= {"terminated": terminated, "truncated": truncated}
        if fork and not episode.ended:
            told["metadata"] = {"fork": self._fork(told["observation"])}
        return told

    def state(self) -> dict[str, Any]:
        """Return what is known of the episode, in OpenEnv's names and ours."""
        episode, choice = self._episode, self._choice
        return {
            "episode_id": episode.episode_id or None,
            "step_count": episode.steps,
            "env": None if choice is None else choice.env_id,
            "task_id": episode.task_id or None,
            "reward": episode.earned,
            "done": episode.ended,
        }

    def lane(self) -> Any:
        """Return what a step keeps busy; see `TextEnv.lane`."""
        return None if self._env is None else text_env(self._env).lane()

    def close(self) -> None:
        """End the session."""
        self._closed = True
        self.arena.forget(self)
        env, self._env, self._choice = self._env, None, None
        if env is not None:
            env.close()

    def _choose(self, options: Mapping[str, Any]) -> Choice:
        env_id = self.arena.choose_env(options.get("env"))
        split = options.get("split")
        if split is not None and not isinstance(split, str):
            raise EtoGymError(f"expected a text as split, got {str(split)[:40]!r}")
        self.arena.check_split(env_id, split)
        listed = options.get("admissible_actions", False)
        if not isinstance(listed, bool):
            raise EtoGymError(f"expected true or false as admissible_actions, got {listed!r:.40}")
        return Choice(env_id, split, listed)

    def _enter(self, choice: Choice) -> gym.Env[str, str]:
        if self._env is None or self._choice != choice:
            env, self._env, self._choice = self._env, None, None
            if env is not None:
                env.close()
            self._env, self._choice = self.arena.make(choice), choice
        return self._env

    def _continue(self, fork: Fork, episode_id: str) -> dict[str, Any]:
        env = self._enter(fork.choice)
        self._episode = Episode()
        set_state(env, fork.state)
        self._episode = dataclasses.replace(fork.episode, episode_id=episode_id)
        return {
            "observation": dict(fork.observation),
            "reward": None,
            "done": False,
            "metadata": {"env": fork.choice.env_id},
        }

    def _fork(self, observation: dict[str, Any]) -> str:
        assert self._env is not None
        assert self._choice is not None
        state, episode = get_state(self._env), dataclasses.replace(self._episode)
        return self.arena.keep(self.name, Fork(self._choice, state, episode, observation))

    def _told(self, text: str, reward: float | None, info: Mapping[str, Any]) -> dict[str, Any]:
        names = ("task_id", "task_type", "score", "success", "admissible_actions")
        known = {name: info[name] for name in names if name in info}
        return {
            "observation": {"text": text, **known, "terminated": False, "truncated": False},
            "reward": reward,
            "done": self._episode.ended if reward is not None else False,
        }


def task_range(tasks: TaskSet, start: object, stop: object) -> list[dict[str, Any]]:
    """Return some tasks of a set: at most 100,000, from `start` up to `stop`, which is left out.

    Raises:
        EtoGymError: The limits are no whole numbers, or lie outside the set.
    """
    first, last = (0 if start is None else start), (len(tasks) if stop is None else stop)
    if type(first) is not int or type(last) is not int or not 0 <= first <= last <= len(tasks):
        raise EtoGymError(f"expected 0 <= start <= stop <= {len(tasks)}")
    last = min(last, first + _TASKS)
    return [
        {"id": task.id, "type": task.type, "split": task.split, "index": index}
        for index, task in enumerate(tasks[first:last], start=first)
    ]
