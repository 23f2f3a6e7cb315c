"""Asks a policy for replies, halves what fails, and turns failures into recorded errors."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from typing import cast

from eto_gym.agents.policy import Conversation, Policy, PolicyReply, StreamingPolicy
from eto_gym.errors import EtoGymError

logger = logging.getLogger(__name__)

_FAILURES = 10
"""Conversations that the policy may fail on in a row before the rollout stops."""


class PolicyCaller:
    """Asks a policy; what it raises becomes a reply with an error, for the one conversation.

    An `EtoGymError` of the policy says that it cannot work as it was set up, and is raised, as is
    one when the policy does nothing but fail.
    """

    def __init__(self, policy: Policy) -> None:
        """Ask this policy."""
        self._policy = policy
        self._failures = 0
        self._begun: dict[str, float] = {}

    def ask(self, conversations: Sequence[Conversation]) -> list[PolicyReply]:
        """Return a reply to each conversation of a batch.

        Raises:
            EtoGymError: The policy raises it, or fails again and again.
        """
        begun = time.monotonic()
        try:
            replies = self._policy.act(conversations)
            if len(replies) != len(conversations):
                raise _NoReplyError(f"{len(replies)} replies to {len(conversations)} conversations")
        except EtoGymError:
            raise
        except Exception as err:
            if len(conversations) == 1:
                return [self._failed(conversations[0], err)]
            half = len(conversations) // 2
            logger.warning("the policy failed on %d conversations: %r", len(conversations), err)
            return self.ask(conversations[:half]) + self.ask(conversations[half:])
        self._failures = 0
        seconds = time.monotonic() - begun
        return [replace(_checked(reply), seconds=seconds) for reply in replies]

    def submit(self, conversation: Conversation) -> Future[PolicyReply]:
        """Ask a streaming policy; the future goes to `resolve` when it is done."""
        self._begun[conversation.key] = time.monotonic()
        try:
            return cast(StreamingPolicy, self._policy).submit(conversation)
        except EtoGymError:
            raise
        except Exception as err:
            future: Future[PolicyReply] = Future()
            future.set_exception(err)
            return future

    def resolve(self, conversation: Conversation, future: Future[PolicyReply]) -> PolicyReply:
        """Return the reply of a future that is done."""
        seconds = time.monotonic() - self._begun.pop(conversation.key)
        try:
            reply = future.result()
        except EtoGymError:
            raise
        except (Exception, CancelledError) as err:
            return self._failed(conversation, err)
        self._failures = 0
        return replace(_checked(reply), seconds=seconds)

    def _failed(self, conversation: Conversation, err: BaseException) -> PolicyReply:
        """Note that the policy failed on one conversation; stop where it does nothing else."""
        self._failures += 1
        if self._failures >= _FAILURES:
            raise EtoGymError(f"the policy failed {self._failures} times in a row: {err}") from err
        logger.error("the policy failed on %s", conversation.key, exc_info=err)
        return PolicyReply("", error="format" if isinstance(err, _NoReplyError) else "policy")


class _NoReplyError(Exception):
    """The policy returned something else than one reply per conversation."""


def _checked(reply: PolicyReply) -> PolicyReply:
    """Replace what is no reply; what a policy returns is not to be trusted."""
    if isinstance(reply, PolicyReply) and isinstance(reply.text, str):
        return reply
    logger.error("expected a PolicyReply with text, got %.200r", reply)
    return PolicyReply("", error="format")
