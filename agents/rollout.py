"""The rollout engine: plays a list of episodes with one policy on many environments at once."""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from eto_gym.agents.policy import Conversation, Policy, PolicyReply
from eto_gym.conversation import ConversationEnv, PromptStyle
from eto_gym.env import TextEnv
from eto_gym.errors import DataError, EtoGymError, MissingDependencyError, UnknownNameError
from eto_gym.prompt import Prompt
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


class Rollout:
    """Plays episodes to completion on a fixed number of slots.

    Every slot holds one environment. A slot whose episode ends takes the next one at once, and the
    policy always answers all conversations that wait for it in one batch.

    An exception in an environment or in the policy ends the episodes concerned, which are recorded
    with their error kind; the others go on. Errors are never scored. Only when the policy fails
    again and again does the rollout stop, with the last error.
    """

    def __init__(
        self,
        make_env: Callable[[], gym.Env[str, str]],
        policy: Policy,
        *,
        slots: int = 64,
        prompt_style: PromptStyle = "one-shot",
        prompt: Prompt | None = None,
    ) -> None:
        """Prepare a rollout; environments are made when they are first needed.

        Args:
            make_env: Makes one environment, as `gym.make` does.
            policy: Answers conversations.
            slots: Environments that play at the same time; the policy's largest batch.
            prompt_style: What precedes the first observation; see `ConversationEnv`.
            prompt: Replaces the benchmark's own prompt.
        """
        if slots < 1:
            raise ValueError(f"expected slots >= 1, got {slots}")
        self._make_env = make_env
        self._policy = policy
        self._slots = slots
        self._prompt_style: PromptStyle = prompt_style
        self._prompt = prompt
        self._policy_failures = 0

    def play(self, episodes: Iterable[Episode]) -> Iterator[Trajectory]:
        """Play the episodes; yield each trajectory as it ends, in no particular order."""
        waiting = deque(episodes)
        self._policy_failures = 0
        slots: list[_Slot] = []
        try:
            for _ in range(min(self._slots, len(waiting))):
                slots.append(_Slot(self._new_env()))
            while waiting or any(slot.playing for slot in slots):
                for slot in slots:
                    while not slot.playing and waiting:
                        failed = slot.start(waiting.popleft(), self._policy.name)
                        if failed is not None:
                            slot.replace_env(self._new_env)
                            yield failed
                ready = [slot for slot in slots if slot.playing]
                if not ready:
                    continue
                for slot, reply in zip(ready, self._ask(ready), strict=True):
                    trajectory = slot.advance(reply)
                    if trajectory is None:
                        continue
                    self._policy.release(slot.conversation.key)
                    if trajectory.error == "environment":
                        slot.replace_env(self._new_env)
                    yield trajectory
        finally:
            for slot in slots:
                if slot.playing:
                    self._policy.release(slot.conversation.key)
                slot.env.close()

    def _new_env(self) -> ConversationEnv:
        return ConversationEnv(
            self._make_env(), prompt_style=self._prompt_style, prompt=self._prompt
        )

    def _ask(self, ready: list[_Slot]) -> list[PolicyReply]:
        try:
            replies = self._policy.act([slot.conversation for slot in ready])
        except EtoGymError:
            raise  # the policy cannot work as it was set up
        except Exception as err:
            self._policy_failures += 1
            if self._policy_failures > 3:
                raise EtoGymError(
                    f"the policy failed {self._policy_failures} times: {err}"
                ) from err
            logger.exception("the policy failed on a batch of %d conversations", len(ready))
            return [PolicyReply("", error="policy") for _ in ready]
        return replies


class _Slot:
    """One environment and the episode that it plays."""

    def __init__(self, env: ConversationEnv) -> None:
        self.env = env
        self.playing = False
        self.conversation: Conversation
        self._episode: Episode
        self._info: dict[str, Any] = {}
        self._reward = 0.0
        self._usage: dict[str, int] = {}
        self._policy_name = ""

    def start(self, episode: Episode, policy_name: str) -> Trajectory | None:
        """Begin an episode; return its trajectory only if the environment failed."""
        self._episode, self._policy_name = episode, policy_name
        self._info, self._reward, self._usage = {}, 0.0, {}
        try:
            observation = self._begin(episode)
        except (UnknownNameError, DataError, MissingDependencyError):
            raise  # the caller's mistake, which every episode would repeat
        except Exception:
            logger.exception("the environment failed to reset to %s", episode.task_id)
            return self._end("error", error="environment")
        self.playing = True
        self.conversation = Conversation(
            key=f"{episode.task_id}#{episode.sample}",
            messages=self.env.conversation,
            observation=observation,
            seed=episode.seed,
            info=self._info,
            env=self.env,
        )
        return None

    def _begin(self, episode: Episode) -> str:
        """Reset or restore the environment; return the bare observation to answer."""
        if episode.state is None:
            observation, self._info = self.env.reset(options={"task": episode.task_id})
            return observation
        set_state(self.env, episode.state)
        self._info = self.env.info
        self._reward = sum(step.reward for step in self.env.steps)
        steps = self.env.steps
        return steps[-1].observation if steps else self.env.conversation[-1].content

    def advance(self, reply: PolicyReply) -> Trajectory | None:
        """Play one reply; return the trajectory if the episode ended."""
        for name, count in reply.usage.items():
            self._usage[name] = self._usage.get(name, 0) + count
        if reply.error is not None:
            return self._end("error", error=reply.error)
        try:
            _, reward, terminated, truncated, self._info = self.env.step(reply.text)
        except Exception:
            logger.exception("the environment failed in %s", self._episode.task_id)
            return self._end("error", error="environment")
        self._reward += float(reward)
        if self._info.get("error") is not None:
            return self._end("error", error="environment")
        if terminated or truncated:
            return self._end("terminated" if terminated else "truncated")
        self.conversation.messages = self.env.conversation
        self.conversation.observation = self.env.steps[-1].observation
        self.conversation.info = self._info
        return None

    def replace_env(self, new_env: Callable[[], ConversationEnv]) -> None:
        """Throw the environment away after a failure: its state is unknown."""
        try:
            self.env.close()
        except Exception:
            logger.exception("a failed environment could not be closed")
        self.env = new_env()

    def _end(self, outcome: Outcome, *, error: ErrorKind | None = None) -> Trajectory:
        self.playing = False
        inner = self.env.unwrapped
        assert isinstance(inner, TextEnv)
        return Trajectory(
            task_id=self._episode.task_id,
            task_type=str(self._info.get("task_type", "")),
            messages=self.env.conversation if self._info else (),
            steps=self.env.steps if self._info else (),
            outcome=outcome,
            reward=self._reward,
            success=outcome != "error" and bool(self._info["success"]),
            error=error,
            policy=self._policy_name,
            env=inner.card(),
            sample=self._episode.sample,
            seed=self._episode.seed,
            usage=self._usage,
        )
