"""A slot of a rollout: one place of a vector environment, and the episode that it plays."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import gymnasium as gym

from eto_gym.agents.policy import Conversation, PolicyReply
from eto_gym.conversation import Dialogue, episode_step_limit
from eto_gym.errors import EtoGymError
from eto_gym.snapshot import set_state
from eto_gym.trajectories import ErrorKind, Outcome, Trajectory
from eto_gym.trajectories.sampled import SampledTokens, chain_prompt
from eto_gym.vector import SlotResult

logger = logging.getLogger(__name__)

MAX_EPISODES = 10_000_000
"""Most episodes of a plan, which holds every one of them."""

_STEP_LIMIT = "step_limit"
_COUNTS = ("prompt_tokens", "decoded_tokens")  # of the counts of a reply, those that stay with it


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

    Raises:
        EtoGymError: They are more than `MAX_EPISODES`.
    """
    task_ids = list(task_ids)
    if len(task_ids) * samples > MAX_EPISODES:
        raise EtoGymError(
            f"{len(task_ids):,} tasks, {samples:,} times each, are more than the {MAX_EPISODES:,} "
            "episodes that can be planned at once: take fewer samples or tasks"
        )
    return [
        Episode(task_id, sample, _episode_seed(seed, task_id, sample))
        for task_id in task_ids
        for sample in range(samples)
    ]


def _episode_seed(seed: int, task_id: str, sample: int) -> int:
    text = f"{seed}\0{sample}\0{task_id}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:6], "big")


class EpisodeEnv(gym.Wrapper[str, str, str, str]):
    """Starts an episode from a snapshot where `reset` is given one, and tells the step limit.

    With `options={"state": snapshot}` the episode goes on from a snapshot of what is wrapped (see
    `eto_gym.get_state`). The info of `reset` holds `step_limit`, the environment's own one.

    Example:
        >>> import eto_gym
        >>> env = EpisodeEnv(gym.make("ETO/ALFWorld-v0"))
        >>> env.reset(seed=0)[1]["step_limit"]
        40
    """

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start an episode, or go on with one."""
        options = dict(options or {})
        state = options.pop("state", None)
        if state is None:
            observation, info = self.env.reset(seed=seed, options=options)
        else:
            set_state(self.env, state)
            observation, info = state["env"]["observation"], {"task_id": state["env"]["task_id"]}
        return observation, {**info, _STEP_LIMIT: episode_step_limit(self.env)}


class Slot:
    """Plays one episode after the other in one slot of a vector environment.

    It knows what is to be asked of the environment and what its answers mean, and asks nothing
    itself.

    Attributes:
        index: Its number in the vector environment.
        episode: What is being played.
        conversation: What the policy is to answer, once the environment has begun.
    """

    def __init__(
        self,
        index: int,
        dialogue: Dialogue,
        *,
        policy_name: str,
        card: dict[str, Any],
        record_admissible: bool = False,
        record_seconds: bool = False,
        player: Mapping[str, Any] | None = None,
    ) -> None:
        """Create a slot.

        Args:
            index: Its number in the vector environment.
            dialogue: Its own; serves one episode after the other.
            policy_name: Recorded with every trajectory.
            card: The environment's card, recorded too.
            record_admissible: Record the admissible actions of every turn.
            record_seconds: Record how long every reply took.
            player: What is recorded of the model that plays; see `Trajectory`.
        """
        self.index = index
        self.episode: Episode | None = None
        self.conversation: Conversation | None = None
        self._dialogue = dialogue
        self._policy_name = policy_name
        self._card = card
        self._info: dict[str, Any] = {}
        self._reward = 0.0
        self._usage: dict[str, int] = {}
        self._reasoning: list[str] = []
        self._facts: list[dict[str, Any]] = []
        self._tokens: list[SampledTokens] = []
        self._known: list[int] = []  # the prompt and the reply before, where tokens are told
        self._record_admissible = record_admissible
        self._record_seconds = record_seconds
        self._player = dict(player or {})

    def start(self, episode: Episode) -> dict[str, Any]:
        """Take an episode; return the options for `EpisodeEnv.reset`.

        Raises:
            EtoGymError: The episode is to go on from something else than a conversation.
        """
        self.episode, self.conversation = episode, None
        self._info, self._reward, self._usage, self._reasoning = {}, 0.0, {}, []
        self._facts, self._tokens, self._known = [], [], []
        if episode.state is None:
            return {"task": episode.task_id}
        outermost, *wrappers = episode.state["wrappers"] or (None,)
        if not (isinstance(outermost, dict) and "messages" in outermost):
            raise EtoGymError("expected a snapshot of a ConversationEnv, got another one's")
        return {"state": {**episode.state, "wrappers": wrappers}}

    def begin(self, result: SlotResult, env: gym.Env[str, str] | None) -> Trajectory | None:
        """Take the answer to the reset; return the trajectory only if the environment failed.

        Args:
            result: The answer.
            env: The environment, if it is at hand.
        """
        assert self.episode is not None
        info = dict(result.info)
        if info.get("error") is not None:
            return self._fail(info)
        limit = info.pop(_STEP_LIMIT)
        if self.episode.state is None:
            self._dialogue.begin(result.observation, info, limit)
        else:
            self._dialogue.set_state(self.episode.state["wrappers"][0], limit)
        self._info = self._dialogue.info
        self._reward = sum(step.reward for step in self._dialogue.steps)
        self.conversation = Conversation(
            key=f"{self.episode.task_id}#{self.episode.sample}",
            messages=self._dialogue.prompt,
            observation=self._dialogue.observation,
            seed=self.episode.seed,
            info=self._info,
            env=env,
            whole=self._dialogue.messages,
        )
        return None

    def read(self, reply: PolicyReply) -> str | Trajectory | None:
        """Take the policy's reply.

        Returns:
            The action to step with; or, of a reply without one, None if the conversation goes on at
            once; or the trajectory, if the episode has ended.
        """
        for name, count in reply.usage.items():
            self._add(name, count)
        if reply.error is not None:
            return self._end("error", error=reply.error)
        self._reasoning.append(reply.reasoning)
        action = self._dialogue.read(reply.text)
        self._facts.append(self._facts_of(reply, action))
        self._tokens.append(
            chain_prompt(self._known, reply.prompt_ids, reply.token_ids, reply.logprobs)
        )
        self._known = [*reply.prompt_ids, *reply.token_ids]
        if action is not None:
            return action
        complaint = self._dialogue.complain()
        silent = reply.truncated and bool(reply.reasoning) and not reply.text.strip()
        if silent or complaint[-1].get("cut_in_reasoning"):
            self._add("cut_in_reasoning", 1)
        elif reply.truncated:
            self._add("cut_before_action", 1)
        return self._turn(*complaint)

    def _facts_of(self, reply: PolicyReply, action: str | None) -> dict[str, Any]:
        """Return what is known of a reply; nothing for a script that sees no admissible actions."""
        facts: dict[str, Any] = {}
        if reply.usage:
            facts["finish"] = "length" if reply.truncated else "stop"
            facts |= {name: reply.usage[name] for name in _COUNTS if name in reply.usage}
            if self._record_seconds and reply.seconds is not None:
                facts["seconds"] = round(reply.seconds, 3)
        admissible = self._info.get("admissible_actions")
        if admissible is not None:
            facts["admissible"] = action in admissible
            if self._record_admissible:
                facts["admissible_actions"] = list(admissible)
        return facts

    def _add(self, name: str, count: int) -> None:
        self._usage[name] = self._usage.get(name, 0) + count

    def observe(self, result: SlotResult) -> Trajectory | None:
        """Take the answer to the step; return the trajectory if the episode ended."""
        _, observation, reward, terminated, truncated, info, _, _ = result
        return self._turn(*self._dialogue.observe(observation, reward, terminated, truncated, info))

    def _turn(
        self, _: str, reward: float, terminated: bool, truncated: bool, info: dict[str, Any]
    ) -> Trajectory | None:
        assert self.conversation is not None
        self._info = info
        self._reward += reward
        if info.get("error") is not None:
            return self._fail(info)
        if terminated or truncated:
            return self._end("terminated" if terminated else "truncated")
        self.conversation.messages = self._dialogue.prompt
        self.conversation.whole = self._dialogue.messages
        self.conversation.observation = self._dialogue.observation
        self.conversation.info = info
        return None

    def _fail(self, info: dict[str, Any]) -> Trajectory:
        assert self.episode is not None
        kind, detail = info["error"], info.get("error_detail")
        logger.warning("%s#%d: %s: %s", self.episode.task_id, self.episode.sample, kind, detail)
        return self._end("error", error=kind if kind in get_args(ErrorKind) else "environment")

    def _end(self, outcome: Outcome, *, error: ErrorKind | None = None) -> Trajectory:
        assert self.episode is not None
        begun = self.conversation is not None
        steps = self._dialogue.steps if begun else ()
        reasoning: tuple[str, ...] = ()
        facts: tuple[dict[str, Any], ...] = ()
        earlier = len(steps) - len(self._facts)  # of an episode that goes on from a snapshot
        if any(self._reasoning):
            reasoning = (*("",) * earlier, *self._reasoning)
        tokens: tuple[SampledTokens, ...] = ()
        if any(link.reply for link in self._tokens):
            tokens = (*(SampledTokens(0, (), ()) for _ in range(earlier)), *self._tokens)
        if any(self._facts):
            facts = (*({} for _ in range(earlier)), *self._facts)
        return Trajectory(
            task_id=self.episode.task_id,
            task_type=str(self._info.get("task_type", "")),
            messages=self._dialogue.messages if begun else (),
            steps=steps,
            outcome=outcome,
            reward=self._reward,
            success=outcome != "error" and bool(self._info["success"]),
            error=error,
            policy=self._policy_name,
            env=self._card,
            sample=self.episode.sample,
            seed=self.episode.seed,
            usage=self._usage,
            reasoning=reasoning,
            history=self._dialogue.history,
            states=self._dialogue.states if begun else (),
            facts=facts,
            tokens=tokens,
            player=self._player,
        )
