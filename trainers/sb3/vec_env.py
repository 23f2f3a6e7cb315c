"""Several text environments behind Stable-Baselines3's vector interface."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from eto_gym.agents.sb3.candidates import Arrays, Candidates, describe_all
from eto_gym.errors import EngineError
from eto_gym.vector import SlotResult, TextVectorEnv

logger = logging.getLogger(__name__)

_MASKS = "action_masks"
"""The method by which sb3-contrib asks what may be done."""

_RESETS = 3
"""How often an environment is reset before it is given up."""


class CandidatesVecEnv(VecEnv):
    """Plays several text environments at once; the features of all come from one call.

    The environments are the slots of a `TextVectorEnv`, in this process or in worker processes. The
    interface is SB3's: an episode that ends is followed by the next at once, and its last
    observation stands in `terminal_observation`. Its info also holds what SB3's Monitor and
    success buffer read: `episode` (`r` return, `l` length, `t` seconds) and `is_success`.

    An environment that fails, or is lost with its process, is replaced. Its episode ends as one
    that was cut short, after the last observation that there was: reward 0.0,
    `TimeLimit.truncated`, and `error` in the info.

    Every environment's info has `candidates_dropped`; see `Candidates`.
    """

    def __init__(
        self,
        make_envs: Sequence[Callable[[], gym.Env[str, str]]],
        *,
        workers: int = 0,
        **options: Any,
    ) -> None:
        """Make the environments.

        Args:
            make_envs: One function per environment; each must make a new one, with
                `admissible_actions=True`. With workers they must be picklable.
            workers: Processes over which the environments are spread; 0 (the default) plays in this
                process.
            options: Those of `Candidates`; its features are shared.
        """
        first = Candidates(**options)
        shared = {**options, "features": first.features}
        self.states = [first, *(Candidates(**shared) for _ in make_envs[1:])]
        count = len(make_envs)
        spread: dict[str, Any] = {}
        if workers:
            spread = {"vectorization": "process", "workers": min(workers, count)}
        self.text = TextVectorEnv(
            list(make_envs),
            count,
            autoreset_mode=AutoresetMode.DISABLED,
            env_wrappers=[_Inspected],
            **spread,
        )
        super().__init__(count, first.space, Discrete(first.max_candidates))
        self._rngs = [np.random.default_rng() for _ in self.states]
        self._returns = np.zeros(self.num_envs)
        self._lengths = np.zeros(self.num_envs, np.int64)
        self._started = time.monotonic()

    def reset(self) -> dict[str, NDArray[Any]]:
        """Start an episode in every environment, with the seeds and options that were set."""
        for i, seed in enumerate(self._seeds):
            if seed is not None:
                self._rngs[i] = np.random.default_rng(seed)
        self._receive_all()
        self._begin(range(self.num_envs), self._seeds, [o or None for o in self._options])
        self._reset_seeds()
        self._reset_options()
        return self._stack(describe_all(self.states))

    def step_async(self, actions: NDArray[Any]) -> None:
        """Send the actions at these places; worker processes play them until `step_wait`."""
        texts = [
            state.choose(int(place)) for state, place in zip(self.states, actions, strict=True)
        ]
        self.text.send_steps(range(self.num_envs), texts)

    def step_wait(self) -> VecEnvStepReturn:
        """Return observations, rewards, ends and infos of what was played."""
        results = self._receive_all()
        rewards = np.array([result.reward for result in results])
        dones = np.array([result.terminated or result.truncated for result in results], bool)
        for result in results:
            if result.info.get("error") is None:
                i = result.slot
                self.states[i].advance(result.observation, result.info, self._rngs[i])
        infos: list[dict[str, Any]] = [
            {
                **_without_list(result.info),
                "candidates_dropped": self.states[result.slot].dropped,
                "TimeLimit.truncated": result.truncated and not result.terminated,
            }
            for result in results
        ]
        self._returns += rewards
        self._lengths += 1
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
        if ended:
            self._begin(ended)
            fresh = describe_all([self.states[i] for i in ended])
            for i, described in zip(ended, fresh, strict=True):
                arrays[i] = described
        return self._stack(arrays), rewards.astype(np.float32), dones, infos

    def close(self) -> None:
        """Close the environments."""
        self.text.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of the environments."""
        return list(self.text.call_slots(self._chosen(indices), attr_name))

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the environments."""
        chosen = self._chosen(indices)
        self.text.set_attr(attr_name, [value] * len(chosen), chosen)

    def has_attr(self, attr_name: str) -> bool:
        """Tell whether every environment has an attribute; `action_masks` is one of them."""
        return attr_name == _MASKS or bool(super().has_attr(attr_name))

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        """Call a method of the environments.

        `action_masks`, which sb3-contrib's MaskablePPO calls, gives for each environment which
        places hold a candidate, shape `(max_candidates,)`.
        """
        chosen = self._chosen(indices)
        if method_name == _MASKS:
            return [self.states[i].mask() for i in chosen]
        return list(self.text.call_slots(chosen, method_name, *method_args, **kwargs))

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Tell which environments have a wrapper of this class."""
        return self.env_method("is_wrapped", wrapper_class, indices=indices)

    def _receive_all(self) -> list[SlotResult]:
        """Wait for all that is under way; return the results in the order of the slots."""
        results: list[SlotResult] = []
        while self.text.pending:
            results += self.text.receive()
        return sorted(results, key=lambda result: result.slot)

    def _begin(
        self,
        slots: Sequence[int],
        seeds: Sequence[int | None] | None = None,
        options: Sequence[dict[str, Any] | None] | None = None,
    ) -> None:
        """Start an episode in some environments, again where that fails.

        Raises:
            EngineError: One of them cannot be reset, in a new environment either.
        """
        for _ in range(_RESETS):
            results = self.text.reset_slots(slots, seed=seeds, options=options)
            failed = []
            for place, result in enumerate(results):
                i = result.slot
                if result.info.get("error") is not None:
                    failed.append(place)
                    continue
                self.states[i].begin(result.observation, result.info, self._rngs[i])
                self.reset_infos[i] = _without_list(result.info)
                self._returns[i], self._lengths[i] = 0.0, 0
            if not failed:
                return
            detail = results[failed[0]].info.get("error_detail")
            logger.warning("%d environments could not be reset: %s", len(failed), detail)
            slots = [slots[place] for place in failed]
            seeds = None if seeds is None else [seeds[place] for place in failed]
            options = None if options is None else [options[place] for place in failed]
        raise EngineError(f"environment {slots[0]} could not be reset, {_RESETS} times: {detail}")

    def _chosen(self, indices: VecEnvIndices) -> list[int]:
        return [int(i) for i in self._get_indices(indices)]

    @staticmethod
    def _stack(arrays: Sequence[Arrays]) -> dict[str, NDArray[Any]]:
        return {key: np.stack([one[key] for one in arrays]) for key in arrays[0]}


class _Inspected(gym.Wrapper[str, str, str, str]):
    """Answers what is wrapped around an environment, wherever that is."""

    def is_wrapped(self, wrapper_class: type) -> bool:
        env: Any = self.env
        while isinstance(env, gym.Wrapper):
            if isinstance(env, wrapper_class):
                return True
            env = env.env
        return False


def _without_list(info: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in info.items() if key != "admissible_actions"}
