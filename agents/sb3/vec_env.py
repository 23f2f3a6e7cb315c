"""Several text environments behind Stable-Baselines3's vector interface."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Discrete
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from eto_gym.agents.sb3.candidates import Arrays, Candidates, describe_all


class CandidatesVecEnv(VecEnv):
    """Plays several text environments in this process; the features of all come from one call.

    The interface is SB3's: an episode that ends is followed by the next at once, and its last
    observation stands in `terminal_observation`. Its info also holds what SB3's Monitor and
    success buffer read: `episode` (`r` return, `l` length, `t` seconds) and `is_success`.

    Every environment's info has `candidates_dropped`; see `Candidates`.
    """

    def __init__(
        self, make_envs: Sequence[Callable[[], gym.Env[str, str]]], **options: Any
    ) -> None:
        """Make the environments.

        Args:
            make_envs: One function per environment; each must make a new one, with
                `admissible_actions=True`.
            options: Those of `Candidates`; its features are shared.
        """
        self.envs = [make() for make in make_envs]
        if len({id(env.unwrapped) for env in self.envs}) != len(self.envs):
            raise ValueError("expected a new environment from every function, got one twice")
        first = Candidates(**options)
        shared = {**options, "features": first.features}
        self.states = [first, *(Candidates(**shared) for _ in self.envs[1:])]
        super().__init__(len(self.envs), first.space, Discrete(first.max_candidates))
        self._rngs = [np.random.default_rng() for _ in self.envs]
        self._returns = np.zeros(self.num_envs)
        self._lengths = np.zeros(self.num_envs, np.int64)
        self._started = time.monotonic()
        self._places: NDArray[Any] = np.zeros(self.num_envs, np.int64)

    def reset(self) -> dict[str, NDArray[Any]]:
        """Start an episode in every environment, with the seeds and options that were set."""
        for i in range(self.num_envs):
            self._reset_one(i, seed=self._seeds[i], options=self._options[i] or None)
        self._reset_seeds()
        self._reset_options()
        return self._stack(describe_all(self.states))

    def step_async(self, actions: NDArray[Any]) -> None:
        """Note the places to play."""
        self._places = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Play the places; return observations, rewards, ends and infos."""
        rewards = np.zeros(self.num_envs, np.float32)
        dones = np.zeros(self.num_envs, bool)
        infos: list[dict[str, Any]] = []
        for i, (env, state) in enumerate(zip(self.envs, self.states, strict=True)):
            text = state.choose(int(self._places[i]))
            observation, reward, terminated, truncated, info = env.step(text)
            state.advance(observation, info, self._rngs[i])
            rewards[i], dones[i] = float(reward), terminated or truncated
            self._returns[i] += float(reward)
            self._lengths[i] += 1
            infos.append(
                {
                    **_without_list(info),
                    "candidates_dropped": state.dropped,
                    "TimeLimit.truncated": truncated and not terminated,
                }
            )
        arrays = describe_all(self.states)
        ended = [int(i) for i in np.flatnonzero(dones)]
        for i in ended:
            infos[i]["terminal_observation"] = arrays[i]
            infos[i]["is_success"] = infos[i]["success"]
            infos[i]["episode"] = {
                "r": float(self._returns[i]),
                "l": int(self._lengths[i]),
                "t": time.monotonic() - self._started,
            }
            self._reset_one(i)
        if ended:
            fresh = describe_all([self.states[i] for i in ended])
            for i, described in zip(ended, fresh, strict=True):
                arrays[i] = described
        return self._stack(arrays), rewards, dones, infos

    def close(self) -> None:
        """Close the environments."""
        for env in self.envs:
            env.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of the environments."""
        return [env.get_wrapper_attr(attr_name) for env in self._chosen(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the environments."""
        for env in self._chosen(indices):
            env.set_wrapper_attr(attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        """Call a method of the environments."""
        return [
            env.get_wrapper_attr(method_name)(*method_args, **kwargs)
            for env in self._chosen(indices)
        ]

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Tell which environments have a wrapper of this class."""
        return [_is_wrapped(env, wrapper_class) for env in self._chosen(indices)]

    def _reset_one(
        self, i: int, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> None:
        if seed is not None:
            self._rngs[i] = np.random.default_rng(seed)
        observation, info = self.envs[i].reset(seed=seed, options=options)
        self.states[i].begin(observation, info, self._rngs[i])
        self.reset_infos[i] = _without_list(info)
        self._returns[i], self._lengths[i] = 0.0, 0

    def _chosen(self, indices: VecEnvIndices) -> Iterable[gym.Env[str, str]]:
        return (self.envs[i] for i in self._get_indices(indices))

    @staticmethod
    def _stack(arrays: Sequence[Arrays]) -> dict[str, NDArray[Any]]:
        return {key: np.stack([one[key] for one in arrays]) for key in arrays[0]}


def _without_list(info: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in info.items() if key != "admissible_actions"}


def _is_wrapped(env: Any, wrapper_class: type) -> bool:
    while isinstance(env, gym.Wrapper):
        if isinstance(env, wrapper_class):
            return True
        env = env.env
    return False
