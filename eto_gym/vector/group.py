"""The environments of one process, stepped and reset by slot."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from eto_gym.errors import DataError, EtoGymError, MissingDependencyError, UnknownNameError
from eto_gym.snapshot import get_state, set_state

logger = logging.getLogger(__name__)

Operation: TypeAlias = Literal["call", "set_attr", "get_state", "set_state"]

STEP, RESET = 0, 1

Request: TypeAlias = tuple[int, int, Any]
"""Slot, STEP or RESET, and the action or the pair (seed, options)."""

CALLERS_MISTAKES = (UnknownNameError, DataError, MissingDependencyError)
"""Errors that are raised to the caller; any other is a failure of the one environment."""


class Failure(NamedTuple):
    """Why an episode was lost.

    Attributes:
        kind: "environment", "timeout", or "worker" (the process was lost, but another environment
            was at work in it).
        detail: What happened.
        worker: Whether the whole worker process was lost.
    """

    kind: str
    detail: str
    worker: bool = False


class Answer(NamedTuple):
    """What came of a request.

    Attributes:
        slot: The environment.
        observation: Its observation, empty where `problem` is set.
        reward: 0.0 for a reset.
        terminated: False for a reset.
        truncated: False for a reset.
        info: Its info.
        final: Last observation and info of the episode that ended, if the environment was then to
            be reset in the same step.
        problem: The failure, or the caller's mistake, because of which there is no observation;
            with `final`, of that reset.
    """

    slot: int
    observation: str = ""
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    info: dict[str, Any] = {}  # noqa: RUF012
    final: tuple[str, dict[str, Any]] | None = None
    problem: Failure | Exception | None = None


@dataclass(frozen=True, slots=True)
class EnvMaker:
    """Makes one environment as `gym.make` does; can be sent to another process.

    Attributes:
        env: Id or spec; or a function that makes an environment; or one function per slot.
        kwargs: Keyword arguments of `gym.make`, or of the function.
        wrappers: Functions that wrap the environment, the innermost first.
    """

    env: str | EnvSpec | Callable[..., gym.Env[str, str]] | Sequence[Callable[..., Any]]
    kwargs: dict[str, Any] = field(default_factory=dict)
    wrappers: tuple[Callable[[Any], gym.Env[str, str]], ...] = ()

    def __call__(self, slot: int = 0) -> gym.Env[str, str]:
        """Make the environment of a slot."""
        env: gym.Env[str, str]
        if isinstance(self.env, str | EnvSpec):
            env = gym.make(self.env, **self.kwargs)
        else:
            make = self.env if callable(self.env) else self.env[slot]
            env = make(**self.kwargs)
        for wrapper in self.wrappers:
            env = wrapper(env)
        return env


@dataclass(frozen=True, slots=True)
class Description:
    """What all environments of a vector have in common."""

    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    metadata: dict[str, Any]
    render_mode: str | None


class NotCopied:
    """What a vector environment plays with: processes, threads and pipes, of which there is one."""

    def __getstate__(self) -> Any:
        """Refuse to be copied before any part is: a copied pipe would close the original's."""
        raise TypeError(
            "a vector environment cannot be copied or pickled: make another one, and carry its "
            "episodes over with get_state and set_state"
        )


class EnvGroup:
    """Some of the slots of a vector environment, each with an environment."""

    def __init__(self, make_env: EnvMaker, slots: Iterable[int], *, same_step: bool) -> None:
        """Make the environments.

        Args:
            make_env: Makes one.
            slots: Their indices in the vector.
            same_step: Reset an environment in the step in which its episode ends.
        """
        self._make_env = make_env
        self._same_step = same_step
        self.envs: dict[int, gym.Env[str, str]] = {}
        try:
            for slot in slots:
                self.envs[slot] = make_env(slot)
        except BaseException:
            self.close()
            raise

    def describe(self) -> Description:
        """Describe the environments.

        Raises:
            EtoGymError: Their spaces differ.
            ValueError: An environment stands in two slots.
        """
        envs = list(self.envs.values())
        if len({id(env.unwrapped) for env in envs}) < len(envs):
            raise ValueError("expected a new environment for every slot, got one twice")
        first = envs[0]
        spaces = (first.observation_space, first.action_space)
        if any((env.observation_space, env.action_space) != spaces for env in envs):
            raise EtoGymError("expected all environments of the vector to have equal spaces")
        return Description(*spaces, dict(first.metadata), first.render_mode)

    def play(self, requests: Sequence[Request]) -> list[Answer]:
        """Step and reset environments; what they raise is in the answers."""
        return [
            self._step(slot, argument) if kind == STEP else self._reset(slot, *argument)
            for slot, kind, argument in requests
        ]

    def _step(self, slot: int, action: str) -> Answer:
        env = self.envs[slot]
        try:
            observation, reward, terminated, truncated, info = env.step(action)
        except Exception as err:
            return Answer(slot, problem=self._recover(slot, err))
        reward, terminated, truncated = float(reward), bool(terminated), bool(truncated)
        if not (self._same_step and (terminated or truncated)):
            return Answer(slot, observation, reward, terminated, truncated, info)
        after = self._reset(slot, None, None)
        return Answer(
            slot,
            after.observation,
            reward,
            terminated,
            truncated,
            after.info,
            (observation, info),
            after.problem,
        )

    def _reset(self, slot: int, seed: int | None, options: dict[str, Any] | None) -> Answer:
        try:
            observation, info = self.envs[slot].reset(seed=seed, options=options)
        except Exception as err:
            return Answer(slot, problem=self._recover(slot, err))
        return Answer(slot, observation, info=info)

    def control(self, operation: Operation, arguments: dict[int, Any]) -> dict[int, Any]:
        """Do to each of some slots what is not play.

        Args:
            operation: "call" (of a method or an attribute of the environment; the argument is name,
                args and kwargs), "set_attr" (name and value), "get_state", or "set_state" (state).
            arguments: Slot -> argument.

        Returns:
            Slot -> result.
        """
        return {slot: self._control(slot, operation, arguments[slot]) for slot in arguments}

    def _control(self, slot: int, operation: Operation, argument: Any) -> Any:
        env = self.envs[slot]
        if operation == "get_state":
            return get_state(env)
        if operation == "set_state":
            return set_state(env, argument)
        if operation == "set_attr":
            return env.set_wrapper_attr(*argument)
        name, args, kwargs = argument
        value = env.get_wrapper_attr(name)
        return value(*args, **kwargs) if callable(value) else value

    def close(self) -> None:
        """Close all environments, and raise the first error of any after that."""
        with contextlib.ExitStack() as stack:
            for env in self.envs.values():
                stack.callback(env.close)

    def _recover(self, slot: int, err: Exception) -> Failure | Exception:
        """Put a new environment in the place of one that raised, since its state is unknown.

        The caller's mistakes leave an environment as it is. Where no other can be made, the old one
        stays and is tried again.
        """
        if isinstance(err, CALLERS_MISTAKES):
            return err
        logger.error("environment %d failed and is replaced", slot, exc_info=err)
        old = self.envs[slot]
        try:
            old.close()
        except Exception:
            logger.exception("environment %d could not be closed", slot)
        try:
            new = self._make_env(slot)
        except CALLERS_MISTAKES as mistake:
            return mistake
        except Exception as reason:
            logger.exception("environment %d cannot be made anew", slot)
            return Failure("environment", f"{err!r}, and then {reason!r}")
        new.unwrapped.np_random = old.unwrapped.np_random
        self.envs[slot] = new
        return Failure("environment", f"{type(err).__name__}: {err}")
