"""The policy protocol: a batch of conversations in, one reply for each out."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym

from eto_gym.prompt import Message
from eto_gym.trajectories.record import ErrorKind


@dataclass(slots=True)
class Conversation:
    """One episode as a policy sees it when it must reply.

    Attributes:
        key: Names the episode while it runs. Policies keep caches and generators by it, until
            `Policy.release`.
        messages: What is to be read of the conversation so far; it ends with an observation.
        observation: The bare observation to answer, without the prefix that messages give it.
        seed: Seed of the episode's sampling. A reply depends on the messages and this seed, not on
            the other conversations of the batch.
        info: The info of the last `reset` or `step`; scripted policies read it, models do not.
        env: The episode's environment, for scripted policies, where it is in the same process; a
            policy that cannot do without says so by an attribute `needs_env = True`.
        whole: The whole conversation, where `messages` leave some of it out; None: they are all.
    """

    key: str
    messages: Sequence[Message]
    observation: str = ""
    seed: int = 0
    info: dict[str, Any] = field(default_factory=dict)
    env: gym.Env[Any, Any] | None = None
    whole: Sequence[Message] | None = None

    @property
    def position(self) -> int:
        """How many messages the whole conversation has; with the seed, it seeds one reply."""
        return len(self.messages if self.whole is None else self.whole)


@dataclass(frozen=True, slots=True)
class PolicyReply:
    """A policy's reply to one conversation.

    Attributes:
        text: What the agent says; empty where there is an error.
        usage: Token counts of this reply: "prompt_tokens" (the whole conversation),
            "prefilled_tokens" (those new to its conversation) and "decoded_tokens" (those
            generated). Empty for scripted policies.
        error: Why there is no reply ("context": the conversation is full; "policy": the policy has
            given up or failed; "timeout": it took too long; "format": what came back is no reply),
            or None.
        truncated: Whether the reply ended at its limit of tokens, not by itself.
        reasoning: What a server's reasoning parser took out of the reply; "" where there is none.
        seconds: From the question until the reply was there; the engine measures it. Replies of one
            batch take the batch's time.
        prompt_ids: Token ids of what was read for the reply; empty unless the policy was asked to
            return tokens.
        token_ids: Token ids as they were sampled, the one that ends the reply included, if it was;
            empty as above.
        logprobs: Log-probability of each under the model, before temperature and top_p; empty
            unless the policy was asked to return them too.
    """

    text: str
    usage: dict[str, int] = field(default_factory=dict)
    error: ErrorKind | None = None
    truncated: bool = False
    reasoning: str = ""
    seconds: float | None = None
    prompt_ids: Sequence[int] = ()
    token_ids: Sequence[int] = ()
    logprobs: Sequence[float] = ()


class Policy(Protocol):
    """Whatever can act: a model, a script, a person.

    A policy with a method `check_prompt(head, history)` is asked before a rollout begins whether it
    can read conversations that begin with these messages, and so much of them; it raises an
    `EtoGymError` where it cannot.

    Attributes:
        name: Recorded with every trajectory.
    """

    name: str

    def act(self, conversations: Sequence[Conversation]) -> list[PolicyReply]:
        """Return one reply per conversation, in order; keys are unique within a call.

        After an exception the engine asks again for each half of the batch, to find out which
        conversation is to blame; so a reply must follow from its conversation, not from how often
        it was asked for. An `EtoGymError` says that the policy cannot work at all, and ends the
        run.
        """
        ...

    def release(self, key: str) -> None:
        """Forget an episode that has ended; an unknown key is no error."""
        ...


@runtime_checkable
class StreamingPolicy(Policy, Protocol):
    """A policy that replies to each conversation on its own, as a remote model does.

    The engine then waits for no batch: every conversation is submitted when it is ready, and goes
    on when its reply is there. Concurrency is the policy's to bound.
    """

    def submit(self, conversation: Conversation) -> Future[PolicyReply]:
        """Ask for one reply; returns at once. The future may be resolved in any thread."""
        ...
