"""Snapshot and restore an environment together with the wrappers around it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import gymnasium as gym
from gymnasium.wrappers import (
    Autoreset,
    DelayObservation,
    FrameStackObservation,
    OrderEnforcing,
    PassiveEnvChecker,
    RecordEpisodeStatistics,
    TimeLimit,
)

from eto_gym.env import TextEnv
from eto_gym.errors import EtoGymError

_KNOWN = (
    TimeLimit,
    Autoreset,
    RecordEpisodeStatistics,
    DelayObservation,
    FrameStackObservation,
)
"""Gymnasium's wrappers that go along with an episode."""


def get_state(env: gym.Env[Any, Any]) -> dict[str, Any]:
    """Return a JSON-serialisable snapshot of a text environment and of its wrappers.

    Besides the engine's state (`TextEnv.get_state`) it holds what Gymnasium's `TimeLimit`,
    `Autoreset`, `RecordEpisodeStatistics`, `FrameStackObservation` and `DelayObservation` know of
    the episode, and the state of every wrapper that has `get_wrapper_state` (as the conversation
    wrapper does), in order from the outside in. Other wrappers go on with what they have.

    Raises:
        EtoGymError: A wrapper keeps observations that are no texts: they were made something else
            below it.
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
        elif isinstance(inner, DelayObservation):
            wrappers.append(_texts(inner, inner.observation_queue))
        elif isinstance(inner, FrameStackObservation):
            # The padding is the first observation of the episode, or what was chosen for it.
            wrappers.append(_texts(inner, [inner.padding_value, *inner.obs_queue]))
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
        elif isinstance(wrapper, DelayObservation):
            wrapper.observation_queue.clear()
            wrapper.observation_queue.extend(wrapper_state)
        elif isinstance(wrapper, FrameStackObservation):
            wrapper.padding_value, *frames = wrapper_state
            wrapper.obs_queue.extend(frames)  # a full queue: the old ones fall out
        else:
            wrapper.set_wrapper_state(wrapper_state)


def _texts(wrapper: gym.Env[Any, Any], kept: Iterable[Any]) -> list[str]:
    texts = list(kept)
    if not all(isinstance(text, str) for text in texts):
        raise EtoGymError(
            f"the observations that {type(wrapper).__name__} keeps are no texts, which a snapshot "
            "could hold: put it directly around the environment, or take the snapshot within it"
        )
    return texts


def _text_env(env: gym.Env[Any, Any]) -> TextEnv:
    if not isinstance(env, TextEnv):
        raise EtoGymError(f"expected a TextEnv under the wrappers, got {type(env).__name__}")
    return env
