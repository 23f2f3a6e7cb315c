"""Snapshot and restore an environment together with the wrappers around it."""

from __future__ import annotations

import time
from typing import Any

import gymnasium as gym
from gymnasium.wrappers import (
    Autoreset,
    OrderEnforcing,
    PassiveEnvChecker,
    RecordEpisodeStatistics,
    TimeLimit,
)

from eto_gym.env import TextEnv
from eto_gym.errors import EtoGymError

_KNOWN = (TimeLimit, Autoreset, RecordEpisodeStatistics)
"""Gymnasium's wrappers that count along with an episode."""


def get_state(env: gym.Env[Any, Any]) -> dict[str, Any]:
    """Return a JSON-serialisable snapshot of a text environment and of its wrappers.

    Besides the engine's state (`TextEnv.get_state`) it holds what Gymnasium's `TimeLimit`,
    `Autoreset` and `RecordEpisodeStatistics` know of the episode, and the state of every wrapper
    that has `get_wrapper_state` (as the conversation wrapper does), in order from the outside in.
    Wrappers that keep observations, as `FrameStackObservation` does, go on with those they have.
    """
    wrappers: list[Any] = []
    inner = env
    while isinstance(inner, gym.Wrapper):
        if isinstance(inner, TimeLimit):
            wrappers.append(inner._elapsed_steps)
        elif isinstance(inner, Autoreset):
            wrappers.append(inner.autoreset)
        elif isinstance(inner, RecordEpisodeStatistics):
            wrappers.append([float(inner.episode_returns), int(inner.episode_lengths)])
        elif hasattr(inner, "get_wrapper_state"):
            wrappers.append(inner.get_wrapper_state())
        inner = inner.env
    return {"env": _text_env(inner).get_state(), "wrappers": wrappers}


def set_state(env: gym.Env[Any, Any], state: dict[str, Any]) -> None:
    """Continue from a snapshot that `get_state` took of an environment wrapped in the same way.

    Raises:
        EtoGymError: The snapshot is of other wrappers, or there is no text environment under them.
    """
    saved = list(state["wrappers"])
    wrappers: list[Any] = []
    inner = env
    while isinstance(inner, gym.Wrapper):
        if isinstance(inner, _KNOWN) or hasattr(inner, "set_wrapper_state"):
            wrappers.append(inner)
        elif isinstance(inner, OrderEnforcing):
            inner._has_reset = True
        elif isinstance(inner, PassiveEnvChecker):
            # It would compare the next step with a reset that there may never have been.
            inner.checked_step = inner.checked_data_reuse = True
        inner = inner.env
    if len(saved) != len(wrappers):
        raise EtoGymError(
            f"the snapshot holds {len(saved)} wrapper states, the environment has {len(wrappers)} "
            "wrappers with state: make both environments the same way"
        )
    _text_env(inner).set_state(state["env"])
    for wrapper, wrapper_state in zip(wrappers, saved, strict=True):
        if isinstance(wrapper, TimeLimit):
            wrapper._elapsed_steps = wrapper_state
        elif isinstance(wrapper, Autoreset):
            wrapper.autoreset = wrapper_state
        elif isinstance(wrapper, RecordEpisodeStatistics):
            wrapper.episode_returns, wrapper.episode_lengths = wrapper_state
            if wrapper.episode_start_time < 0:  # it was never reset
                wrapper.episode_start_time = time.perf_counter()
        else:
            wrapper.set_wrapper_state(wrapper_state)


def _text_env(env: gym.Env[Any, Any]) -> TextEnv:
    if not isinstance(env, TextEnv):
        raise EtoGymError(f"expected a TextEnv under the wrappers, got {type(env).__name__}")
    return env
