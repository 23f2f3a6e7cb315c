"""One place of a rollout: an environment, and the episode that it plays."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast, get_args

import gymnasium as gym

from eto_gym.agents.policy import Conversation, PolicyReply
from eto_gym.conversation import ConversationEnv
from eto_gym.env import TextEnv
from eto_gym.errors import DataError, MissingDependencyError, UnknownNameError
from eto_gym.snapshot import set_state
from eto_gym.trajectories import ErrorKind, Outcome, Trajectory

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Episode:
    """One episode to play: the task, which of its samples, and the seed of its sampling.

    With `state`, a snapshot of a `ConversationEnv` (see `eto_gym.get_state`), the episode goes on
    from there: its trajectory begins with the turns that the snapshot holds, and their rewards.
    """

    task_id: str
    sample: int
    seed: int
    state: dict[str, Any] | None = None

    @property
    def key(self) -> tuple[str, int]:
        """What identifies the episode's trajectory in a store."""
        return (self.task_id, self.sample)


def plan_episodes(task_ids: Iterable[str], *, samples: int = 1, seed: int = 0) -> list[Episode]:
    """List `samples` episodes of every task.

    An episode's seed depends on `seed`, the task and the sample index alone, so a result does not
    depend on which other episodes are played, nor on their order.
    """
    return [
        Episode(task_id, sample, _episode_seed(seed, task_id, sample))
        for task_id in task_ids
        for sample in range(samples)
    ]


def _episode_seed(seed: int, task_id: str, sample: int) -> int:
    text = f"{seed}\0{sample}\0{task_id}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:6], "big")


class Slot:
    """Plays one episode after the other in one environment.

    `start` and `advance` may run in another thread than the engine's, one at a time.
    """

    def __init__(self, make_env: Callable[[], ConversationEnv], policy_name: str) -> None:
        """Create a slot; its environment is made with its first episode.

        Args:
            make_env: Makes the environment, and another one after a failure.
            policy_name: Recorded with every trajectory.
        """
        self.conversation: Conversation | None = None
        self.episode: Episode | None = None
        self._make_env = make_env
        self._env: ConversationEnv | None = None
        self._policy_name = policy_name
        self._info: dict[str, Any] = {}
        self._reward = 0.0
        self._usage: dict[str, int] = {}

    def start(self, episode: Episode) -> Trajectory | None:
        """Begin an episode; return its trajectory only if the environment failed.

        Raises:
            EtoGymError: There is no such task, or no data for it: every episode would fail so.
        """
        self.episode, self.conversation = episode, None
        self._info, self._reward, self._usage = {}, 0.0, {}
        try:
            env = self._env = self._env or self._make_env()
            observation = self._begin(env, episode)
        except (UnknownNameError, DataError, MissingDependencyError, gym.error.UnregisteredEnv):
            raise
        except Exception:
            logger.exception("the environment failed to reset to %s", episode.task_id)
            return self._end("error", error="environment")
        self.conversation = Conversation(
            key=f"{episode.task_id}#{episode.sample}",
            messages=env.conversation,
            observation=observation,
            seed=episode.seed,
            info=self._info,
            env=env,
        )
        return None

    def _begin(self, env: ConversationEnv, episode: Episode) -> str:
        """Reset or restore the environment; return the bare observation to answer."""
        if episode.state is None:
            observation, self._info = env.reset(options={"task": episode.task_id})
            return observation
        set_state(env, episode.state)
        self._info = env.info
        self._reward = sum(step.reward for step in env.steps)
        return env.steps[-1].observation if env.steps else env.conversation[-1].content

    def advance(self, reply: PolicyReply) -> Trajectory | None:
        """Play one reply; return the trajectory if the episode ended."""
        for name, count in reply.usage.items():
            self._usage[name] = self._usage.get(name, 0) + count
        if reply.error is not None:
            return self._end("error", error=reply.error)
        env, conversation = cast(ConversationEnv, self._env), cast(Conversation, self.conversation)
        try:
            _, reward, terminated, truncated, self._info = env.step(reply.text)
        except Exception:
            logger.exception("the environment failed in %s", conversation.key)
            return self._end("error", error="environment")
        self._reward += float(reward)
        if (kind := self._info.get("error")) is not None:
            return self._end("error", error=kind if kind in get_args(ErrorKind) else "environment")
        if terminated or truncated:
            return self._end("terminated" if terminated else "truncated")
        conversation.messages = env.conversation
        conversation.observation = env.steps[-1].observation
        conversation.info = self._info
        return None

    def open(self) -> gym.Env[str, str]:
        """Make the environment now, so that what is wrong with its arguments is raised here."""
        self._env = self._env or self._make_env()
        return self._env

    def give_up(self, error: ErrorKind) -> Trajectory:
        """Record the episode as failed while its environment may still be busy.

        The slot must not be used again, except to close it when the environment has come back.
        """
        return self._end("error", error=error)

    def close(self) -> None:
        """Close the environment; an episode that starts later makes a new one."""
        env, self._env = self._env, None
        if env is not None:
            try:
                env.close()
            except Exception:
                logger.exception("an environment could not be closed")

    def _end(self, outcome: Outcome, *, error: ErrorKind | None = None) -> Trajectory:
        episode, env = cast(Episode, self.episode), self._env
        begun = env is not None and bool(self._info)
        trajectory = Trajectory(
            task_id=episode.task_id,
            task_type=str(self._info.get("task_type", "")),
            messages=env.conversation if env is not None and begun else (),
            steps=env.steps if env is not None and begun else (),
            outcome=outcome,
            reward=self._reward,
            success=outcome != "error" and bool(self._info["success"]),
            error=error,
            policy=self._policy_name,
            env=_card(env),
            sample=episode.sample,
            seed=episode.seed,
            usage=self._usage,
        )
        if error is not None and error == self._info.get("error", "environment"):
            self.close()  # it failed, and its state is unknown
        return trajectory


def _card(env: ConversationEnv | None) -> dict[str, Any]:
    return cast(TextEnv, env.unwrapped).card() if env is not None else {}
