"""Policies without a model: the benchmark's expert, random admissible actions, and replay."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from eto_gym.agents.policy import Conversation, PolicyReply
from eto_gym.env import TextEnv, text_env
from eto_gym.errors import EtoGymError
from eto_gym.expert import Expert, Reply
from eto_gym.trajectories.record import Trajectory


class _Scripted:
    """Acts on one conversation at a time and keeps nothing between episodes unless told to."""

    name: str

    def act(self, conversations: Sequence[Conversation]) -> list[PolicyReply]:
        """Return one reply per conversation, in order."""
        return [self._act_one(conversation) for conversation in conversations]

    def release(self, key: str) -> None:
        """Forget an episode that has ended."""

    def _act_one(self, conversation: Conversation) -> PolicyReply:
        raise NotImplementedError


class ExpertPolicy(_Scripted):
    """Plays the benchmark's own expert; gives up (error "policy") where the expert does."""

    needs_env = True

    def __init__(self, *, name: str = "expert") -> None:
        """Create the policy.

        Args:
            name: Recorded with every trajectory.
        """
        self.name = name
        self._experts: dict[str, Expert] = {}

    def release(self, key: str) -> None:
        """Drop the episode's expert."""
        self._experts.pop(key, None)

    def _act_one(self, conversation: Conversation) -> PolicyReply:
        expert = self._experts.get(conversation.key)
        if expert is None:
            expert = self._experts[conversation.key] = self._begin(conversation)
        reply = expert.act(conversation.observation, conversation.info)
        return PolicyReply("", error="policy") if reply is None else PolicyReply(str(reply))

    def _begin(self, conversation: Conversation) -> Expert:
        return _text_env(conversation).make_expert()


class PlayerPolicy(ExpertPolicy):
    """Plays the benchmark's scripted player: varied play that does not pursue the task.

    An episode's play depends on its seed.
    """

    def __init__(self, *, name: str = "player") -> None:
        """Create the policy.

        Args:
            name: Recorded with every trajectory.
        """
        super().__init__(name=name)

    def _begin(self, conversation: Conversation) -> Expert:
        return _text_env(conversation).make_player(conversation.seed)


def _text_env(conversation: Conversation) -> TextEnv:
    if conversation.env is None:
        raise EtoGymError("a scripted policy needs Conversation.env")
    return text_env(conversation.env)


class RandomPolicy(_Scripted):
    """Takes an admissible action at random; the draws depend on the episode's seed and the turn."""

    def __init__(
        self,
        *,
        thought: Callable[[str], str] = lambda action: f"I will try to {action}.",
        name: str = "random",
    ) -> None:
        """Create the policy.

        Args:
            thought: Words the thought that goes with an action.
            name: Recorded with every trajectory.
        """
        self.name = name
        self._thought = thought

    def _act_one(self, conversation: Conversation) -> PolicyReply:
        actions = conversation.info.get("admissible_actions")
        if actions is None:
            raise EtoGymError(
                "the random policy needs info['admissible_actions']: make the environment with "
                "admissible_actions=True"
            )
        if not actions:
            return PolicyReply("", error="policy")
        draw = np.random.default_rng([conversation.seed, conversation.position])
        action = actions[int(draw.integers(len(actions)))]
        return PolicyReply(str(Reply(self._thought(action), action)))


class ReplayPolicy(_Scripted):
    """Repeats recorded trajectories word for word, looked up by task id.

    Where a task was recorded more than once, the first trajectory is replayed. When its replies are
    used up the policy gives up (error "policy").
    """

    def __init__(self, trajectories: Iterable[Trajectory], *, name: str = "replay") -> None:
        """Create the policy.

        Args:
            trajectories: What to replay; the last `len(steps)` assistant messages of each.
            name: Recorded with every trajectory.
        """
        self.name = name
        self._replies: dict[str, list[str]] = {}
        self._first: dict[str, int] = {}
        for trajectory in trajectories:
            said = [m.content for m in trajectory.messages if m.role == "assistant"]
            played = said[len(said) - len(trajectory.steps) :]
            self._replies.setdefault(trajectory.task_id, played)

    def release(self, key: str) -> None:
        """Forget where the episode began."""
        self._first.pop(key, None)

    def _act_one(self, conversation: Conversation) -> PolicyReply:
        replies = self._replies.get(conversation.info["task_id"])
        if replies is None:
            raise EtoGymError(f"no trajectory of task {conversation.info['task_id']!r} to replay")
        spoken = sum(m.role == "assistant" for m in conversation.whole or conversation.messages)
        turn = spoken - self._first.setdefault(conversation.key, spoken)
        if turn >= len(replies):
            return PolicyReply("", error="policy")
        return PolicyReply(replies[turn])
