"""The vector environment of text."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, get_args

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array
from gymnasium.wrappers.utils import create_zero_array

from eto_gym.errors import EngineError, EtoGymError, check_choice
from eto_gym.spaces import UnicodeText
from eto_gym.vector.group import EnvMaker, Operation
from eto_gym.vector.infos import batch_infos
from eto_gym.vector.local import LocalBackend
from eto_gym.vector.options import split_options, split_seed
from eto_gym.vector.slots import SlotResult, Slots
from eto_gym.vector.workers import ProcessBackend

Vectorization = Literal["local", "process"]

WORKER_DEFAULTS: dict[str, dict[str, Any]] = {"ETO/ScienceWorld-v0": {"lanes": 1}}
"""Arguments of environments whose default is meant for a process that plays them all."""

Texts: TypeAlias = tuple[str, ...]
Flags: TypeAlias = npt.NDArray[np.bool_]
Floats: TypeAlias = npt.NDArray[np.float64]


class TextVectorEnv(VectorEnv[Texts, Sequence[str], npt.NDArray[Any]]):
    """N copies of a text environment ("slots"), in this process or in worker processes.

    Each slot is made by `gym.make`, so every keyword argument of it works here, and given the same
    seeds, options and actions each plays exactly as a single environment does. Observations and
    actions are tuples of strings, infos are those of Gymnasium's vector environments, and all three
    autoreset modes are as in `SyncVectorEnv`.

    Wrappers may make something else of an observation than a text (`FrameStackObservation`);
    `reset` and `step` then batch it as Gymnasium does for its space.

    Slots of one process share catalogs and games. ScienceWorld's slots share its lanes, and run on
    all of them at once.

    Beyond Gymnasium's interface slots can be stepped and reset one by one (`step_slots`,
    `reset_slots`), also without waiting (`send_steps`, `send_resets`, then `receive`), so that a
    finished slot takes up the next task while others play on.

    An environment that raises, or a worker process that dies, costs the episodes that it played and
    nothing else: its slots are made anew, and each reports its lost episode, with the step under
    way or else with its next one, as truncated with an empty observation, reward 0.0 and an info
    with `error`, `error_detail`, `score` 0.0 and `success` False, from where the autoreset mode
    goes on as after any other end. The error is "environment" where it raised or was at
    work when its process died, "timeout" where it took longer than `worker_timeout`, and "worker"
    where its process was lost while another environment, or none, was at work. Only the caller's
    own mistakes (an unknown task, missing data) are raised.
    """

    def __init__(
        self,
        env: str | EnvSpec | Callable[..., gym.Env[str, str]] | Sequence[Callable[..., Any]],
        num_envs: int = 1,
        *,
        vectorization: Vectorization = "local",
        workers: int | None = None,
        worker_timeout: float | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        env_wrappers: Sequence[Callable[[Any], gym.Env[str, str]]] = (),
        **env_kwargs: Any,
    ) -> None:
        """Make the environments.

        Args:
            env: Id or spec for `gym.make`; or a function that makes an environment, with
                `env_kwargs` for arguments; or one such function per slot. An `EnvMaker` is all that
                it holds.
            num_envs: Number of slots.
            vectorization: "local" (the default) plays in this process, "process" in worker
                processes, which are spawned: a script that uses them needs the usual
                `if __name__ == "__main__":`, and what is passed to them must be picklable.
            workers: Number of worker processes, over which the slots are spread evenly; None means
                one per core. Only for "process".
            worker_timeout: Seconds that one environment may take for a step or a reset before its
                worker is replaced, which costs the episodes of all environments in it; None (the
                default) waits for ever. Only for "process".
            autoreset_mode: What follows the end of an episode; see Gymnasium. With DISABLED, a slot
                that has ended must be reset before it is stepped.
            env_wrappers: Functions that wrap each environment, the innermost first.
            env_kwargs: Keyword arguments of `gym.make`. ScienceWorld's `lanes` are 1 per worker
                unless told otherwise, as there is a worker per core.

        Raises:
            ValueError: `num_envs`, `workers` or `worker_timeout` makes no sense.
        """
        check_choice("vectorization", vectorization, get_args(Vectorization))
        if num_envs < 1:
            raise ValueError(f"expected num_envs >= 1, got {num_envs}")
        if vectorization == "local" and not (workers is None and worker_timeout is None):
            raise ValueError("workers and worker_timeout need vectorization='process'")
        if workers is not None and workers < 1:
            raise ValueError(f"expected workers >= 1 or None, got {workers}")
        if worker_timeout is not None and worker_timeout <= 0:
            raise ValueError(f"expected worker_timeout > 0 or None, got {worker_timeout}")
        self.num_envs = num_envs
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        same_step = self.autoreset_mode is AutoresetMode.SAME_STEP
        if isinstance(env, EnvMaker):
            env_kwargs = {**env.kwargs, **env_kwargs}
            env_wrappers = (*env.wrappers, *env_wrappers)
            env = env.env
        if isinstance(env, Sequence) and not isinstance(env, str) and len(env) != num_envs:
            raise ValueError(f"expected {num_envs} functions, one per slot, got {len(env)}")
        if vectorization == "process":
            env_kwargs = {**_worker_defaults(env), **env_kwargs}
        maker = EnvMaker(env, env_kwargs, tuple(env_wrappers))
        self._backend: LocalBackend | ProcessBackend
        if vectorization == "local":
            self._backend = LocalBackend(maker, num_envs, same_step=same_step)
        else:
            self._backend = ProcessBackend(
                maker,
                num_envs,
                same_step=same_step,
                workers=min(num_envs, workers or _cores()),
                timeout=worker_timeout,
            )
        common = self._backend.describe()
        self.metadata = {**common.metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = common.render_mode
        self.single_observation_space = common.observation_space
        self.single_action_space = common.action_space
        self.observation_space = batch_space(common.observation_space, num_envs)
        self.action_space = batch_space(common.action_space, num_envs)

        self._slots = Slots(self._backend, num_envs, self.autoreset_mode)

    # --- the Gymnasium interface -----------------------------------------------------------------

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | Sequence[dict[str, Any] | None] | None = None,
    ) -> tuple[Texts, dict[str, Any]]:
        """Start an episode in every slot, or in those of a mask.

        Args:
            seed: None; an integer for slot 0, plus one for each further slot; or one per slot.
            options: Options for all slots, among which `"reset_mask"` is an array of booleans that
                says which slots to reset (the others play on and have no info in the result). A
                list holds one value per slot, None where there is none: `{"task": ["a", "b"]}`.
                Instead of a dictionary, a list of one dictionary (or None) per slot does as well.

        Raises:
            UnknownNameError: There is no such task or option.
            EngineError: A slot could not be reset, even in a new environment.
        """
        seeds = split_seed(seed, self.num_envs)
        mask, per_slot = split_options(options, self.num_envs)
        slots = range(self.num_envs) if mask is None else np.flatnonzero(mask).tolist()
        self._check_open()
        # An interrupted call may have left something under way.
        self._slots.wait_for(list(self._slots.sent))
        self._slots.results.clear()
        self._slots.send_resets(slots, seeds, per_slot)
        results = self._slots.take(self._slots.wait_for(slots))
        for result in results:
            if result.truncated:
                raise EngineError(
                    f"environment {result.slot} could not be reset: {result.info['error_detail']}"
                )
        infos = batch_infos(((r.slot, r.info) for r in results), self.num_envs)
        return self._batched(self._slots.observations), infos

    def step(self, actions: Sequence[str]) -> tuple[Texts, Floats, Flags, Flags, dict[str, Any]]:
        """Take one action in every slot.

        Raises:
            TypeError: An action is not a string.
            ResetNeeded: A slot was never reset, or has ended in mode DISABLED.
            AlreadyPendingCallError: Something is under way.
        """
        if self._slots.sent or self._slots.results:
            raise AlreadyPendingCallError(
                f"expected nothing under way at step, but slots {self.pending} are", "step"
            )
        slots = range(self.num_envs)
        self.send_steps(slots, actions)
        results = self._slots.take(self._slots.wait_for(slots))
        _, observations, rewards, terminated, truncated, _, _, _ = zip(*results, strict=True)
        infos = batch_infos(map(_full_info, results), self.num_envs)
        return (
            self._batched(observations),
            np.array(rewards, dtype=np.float64),
            np.array(terminated, dtype=np.bool_),
            np.array(truncated, dtype=np.bool_),
            infos,
        )

    def render(self) -> tuple[Any, ...]:
        """Return what each environment renders."""
        return self.call("render")

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environments and end the workers."""
        self._backend.close()

    @property
    def envs(self) -> list[gym.Env[str, str]]:
        """The environments; they are at hand with vectorization "local" only.

        Raises:
            AttributeError: They are in other processes.
        """
        if not isinstance(self._backend, LocalBackend):
            raise AttributeError("the environments are in other processes: use `call`")
        return list(self._backend.group.envs.values())

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The random generators of the environments."""
        return self.get_attr("np_random")

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seeds of those."""
        return self.get_attr("np_random_seed")

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of every environment, or read an attribute."""
        return self._control("call", [(name, args, kwargs)] * self.num_envs)

    def call_slots(
        self, slots: Sequence[int], name: str, *args: Any, **kwargs: Any
    ) -> tuple[Any, ...]:
        """Call a method of the environments of some slots, or read an attribute."""
        return self._control("call", [(name, args, kwargs)] * len(slots), slots)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Read an attribute of every environment."""
        return self.call(name)

    def set_attr(self, name: str, values: Any, slots: Sequence[int] | None = None) -> None:
        """Set an attribute of every environment, or of those of some slots.

        A list or tuple holds one value for each.

        Raises:
            ValueError: There are not as many values as slots.
        """
        chosen = range(self.num_envs) if slots is None else slots
        if not isinstance(values, list | tuple):
            values = [values] * len(chosen)
        if len(values) != len(chosen):
            raise ValueError(f"expected {len(chosen)} values, got {len(values)}")
        self._control("set_attr", [(name, value) for value in values], chosen)

    # --- single slots ----------------------------------------------------------------------------

    def step_slots(self, slots: Sequence[int], actions: Sequence[str]) -> list[SlotResult]:
        """Take an action in some slots and wait for them; the others stay as they are.

        Raises what `send_steps` does.
        """
        self.send_steps(slots, actions)
        return self._slots.take(self._slots.wait_for(slots))

    def reset_slots(
        self,
        slots: Sequence[int],
        *,
        seed: Sequence[int | None] | None = None,
        options: dict[str, Any] | Sequence[dict[str, Any] | None] | None = None,
    ) -> list[SlotResult]:
        """Start an episode in some slots and wait for them.

        A slot that cannot be reset is reported as a lost episode is, and not raised.

        Args:
            slots: The slots.
            seed: One per slot of `slots`, or None.
            options: As in `reset`, with lists as long as `slots`, and without a mask.

        Raises:
            ClosedEnvironmentError: The vector environment is closed.
            AlreadyPendingCallError: A slot is under way.
            TypeError: Seeds or options are of another type.
            ValueError: A slot does not exist, or seeds or options do not fit the slots.
        """
        self.send_resets(slots, seed=seed, options=options)
        return self._slots.take(self._slots.wait_for(slots))

    def send_steps(self, slots: Sequence[int], actions: Sequence[str]) -> None:
        """Take an action in some slots; `receive` returns what comes of it.

        In mode NEXT_STEP the step of a slot that has ended starts its next episode.

        Raises:
            ClosedEnvironmentError: The vector environment is closed.
            TypeError: An action is no text, or one text stands for all.
            ValueError: There is no such slot, or not one action for each.
            ResetNeeded: A slot was never reset, or has ended in mode DISABLED.
            AlreadyPendingCallError: A slot is under way.
        """
        self._check_open()
        self._slots.send_steps(slots, actions)

    def send_resets(
        self,
        slots: Sequence[int],
        *,
        seed: Sequence[int | None] | None = None,
        options: dict[str, Any] | Sequence[dict[str, Any] | None] | None = None,
    ) -> None:
        """Start an episode in some slots; `receive` returns what comes of it.

        Takes and raises what `reset_slots` does.
        """
        self._slots.check(slots)
        seeds = split_seed(seed, len(slots))
        mask, per_slot = split_options(options, len(slots))
        if mask is not None:
            raise ValueError("expected the slots to reset, not a reset_mask")
        by_slot = dict(zip(slots, zip(seeds, per_slot, strict=True), strict=True))
        self._check_open()
        self._slots.send_resets(
            slots,
            {slot: seed for slot, (seed, _) in by_slot.items()},
            {slot: options for slot, (_, options) in by_slot.items()},
        )

    def receive(self, timeout: float | None = None) -> list[SlotResult]:
        """Return the results that are there, or wait for some.

        Args:
            timeout: Longest wait in seconds; None waits as long as it takes.

        Returns:
            At least one result, unless the time is over, nothing is under way, or `wake` was
            called.
        """
        self._check_open()
        if not self._slots.results:
            self._slots.pump(timeout)
        for slot, result in self._slots.results.items():
            if isinstance(result, Exception):
                return self._slots.take(
                    [slot]
                )  # raises it, and leaves the others for the next call
        return self._slots.take(list(self._slots.results))

    def wake(self) -> None:
        """Let a `receive` that waits in another thread return, or else the next that would."""
        self._backend.wake()

    @property
    def pending(self) -> list[int]:
        """Slots whose results `receive` has not returned yet."""
        return self._slots.pending

    def get_state(self, slots: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Return a JSON-serialisable snapshot of each slot, as `eto_gym.get_state` does.

        Raises:
            AlreadyPendingCallError: A slot is under way.
            EngineError: A slot plays no episode.
        """
        chosen = range(self.num_envs) if slots is None else slots
        self._slots.check(chosen)
        for slot in chosen:
            if slot in self._slots.lost or not self._slots.started[slot]:
                raise EngineError(f"slot {slot} plays no episode that could be saved")
        states = self._control("get_state", [None] * len(chosen), chosen)
        return [
            {**state, "ended": self._slots.ended[slot], **self._slots.shown(slot)}
            for slot, state in zip(chosen, states, strict=True)
        ]

    def set_state(
        self, states: Sequence[dict[str, Any]], slots: Sequence[int] | None = None
    ) -> None:
        """Continue from snapshots of slots, or of single environments that were made alike.

        A slot whose snapshot is refused stays as it is; the others are set before the error is
        raised.
        """
        chosen = range(self.num_envs) if slots is None else slots
        self._slots.check(chosen)
        given = list(zip(chosen, states, strict=True))
        try:
            self._control("set_state", states, chosen)
        except (EtoGymError, KeyError, TypeError, ValueError):
            if len(given) > 1:  # some may be set: set all that can be, one by one
                for slot, state in given:
                    with contextlib.suppress(EtoGymError, KeyError, TypeError, ValueError):
                        self.set_state([state], [slot])
            raise
        for slot, state in given:
            self._slots.restore(slot, state)

    def _batched(self, observations: Sequence[Any]) -> Any:
        """Return observations as Gymnasium batches them: texts as a tuple, one per slot.

        Where wrappers make something else of text, an episode that was lost has that space's zero.
        """
        space = self.single_observation_space
        if isinstance(space, UnicodeText | gym.spaces.Text):
            return tuple(observations)
        lost = [isinstance(one, str) for one in observations]
        whole = [
            create_zero_array(space) if gone else one
            for gone, one in zip(lost, observations, strict=True)
        ]
        empty: Any = create_empty_array(space, self.num_envs)
        return concatenate(space, whole, empty)

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError("the vector environment is closed")

    def _control(
        self, operation: Operation, arguments: Sequence[Any], slots: Sequence[int] | None = None
    ) -> tuple[Any, ...]:
        self._check_open()
        chosen = range(self.num_envs) if slots is None else slots
        return self._slots.control(operation, arguments, chosen)


def _full_info(result: SlotResult) -> tuple[int, dict[str, Any]]:
    if result.final is None:
        return result.slot, result.info
    observation, info = result.final
    return result.slot, {"final_obs": observation, "final_info": info, **result.info}


def _worker_defaults(env: Any) -> dict[str, Any]:
    """Return the arguments that differ in a worker process, unless the spec sets them."""
    if isinstance(env, EnvSpec):
        return {k: v for k, v in WORKER_DEFAULTS.get(env.id, {}).items() if k not in env.kwargs}
    return WORKER_DEFAULTS.get(env, {}) if isinstance(env, str) else {}


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
