"""Faults on purpose: a policy and an environment that fail at random, to try a rollout with."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np

from eto_gym.errors import EngineError

NONSENSE = ("", "I would rather not.", "Action:", "\x00\ud800", '{"action": ', "Thought: " * 50)
"""Replies in which there is no action."""


@dataclass(frozen=True, slots=True)
class FaultRates:
    """How often, per reply or step, what goes wrong.

    Attributes:
        kill: The process kills itself by SIGKILL, at a reply or a step.
        refuse: The policy raises `ConnectionError` on the batch.
        give_up: The policy replies with the error kind "timeout".
        no_reply: The policy returns something that is no reply.
        nonsense: The policy says something without an action. Which replies that befalls depends
            on the episode alone, since it is part of the episode's result.
        engine: The environment raises `EngineError`.
        hang: The environment does not come back for `hang_s` seconds.
        hang_s: How long that is.
    """

    kill: float = 0.0
    refuse: float = 0.0
    give_up: float = 0.0
    no_reply: float = 0.0
    nonsense: float = 0.0
    engine: float = 0.0
    hang: float = 0.0
    hang_s: float = 1.0


def _generator(seed: int) -> np.random.Generator:
    """Return a generator that differs from process to process, so that a fault is not for ever."""
    return np.random.default_rng([seed, os.getpid()])


class FaultyPolicy:
    """Answers as another policy does, but for the faults.

    It takes and returns what that policy does, and so is a policy of `eto_gym.agents` without
    importing it.
    """

    def __init__(self, policy: Any, rates: FaultRates, *, seed: int = 0) -> None:
        """Wrap a policy.

        Args:
            policy: What answers.
            rates: How often what goes wrong.
            seed: Seed of the faults.
        """
        self.name = policy.name
        self.needs_env = getattr(policy, "needs_env", False)
        self._policy = policy
        self._rates = rates
        self._rng = _generator(seed)

    def act(self, conversations: Sequence[Any]) -> list[Any]:
        """Return replies, or fail.

        Raises:
            ConnectionError: On purpose.
        """
        rates = self._rates
        draws = self._rng.random((len(conversations), 4))
        if (draws[:, 0] < rates.kill).any():
            os.kill(os.getpid(), signal.SIGKILL)
        if (draws[:, 1] < rates.refuse).any():
            raise ConnectionError("the connection was refused, on purpose")
        replies: list[Any] = self._policy.act(conversations)
        for i, conversation in enumerate(conversations):
            chance = np.random.default_rng([conversation.seed, conversation.position, 1])
            if chance.random() < rates.nonsense:
                text = NONSENSE[int(chance.integers(len(NONSENSE)))]
                replies[i] = replace(replies[i], text=text, usage={}, error=None)
            if draws[i, 2] < rates.give_up:
                replies[i] = replace(replies[i], text="", usage={}, error="timeout")
            if draws[i, 3] < rates.no_reply:
                replies[i] = {"error": "overloaded"}
        return replies

    def release(self, key: str) -> None:
        """Forget an episode that has ended."""
        self._policy.release(key)


class FaultyEnv(gym.Wrapper[str, str, str, str]):
    """Raises, hangs or kills its process in `step` now and then."""

    def __init__(self, env: gym.Env[str, str], rates: FaultRates, *, seed: int = 0) -> None:
        """Wrap an environment.

        Args:
            env: What is played.
            rates: How often what goes wrong.
            seed: Seed of the faults.
        """
        super().__init__(env)
        self._rates = rates
        # Another environment of this process, made later, shall fail elsewhere.
        self._rng = np.random.default_rng([seed, os.getpid(), time.monotonic_ns()])

    def step(self, action: str) -> tuple[str, Any, bool, bool, dict[str, Any]]:
        """Step, or fail.

        Raises:
            EngineError: On purpose.
        """
        kill, engine, hang = self._rng.random(3)
        if kill < self._rates.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        if engine < self._rates.engine:
            raise EngineError("the engine broke, on purpose")
        if hang < self._rates.hang:
            time.sleep(self._rates.hang_s)
        return self.env.step(action)
