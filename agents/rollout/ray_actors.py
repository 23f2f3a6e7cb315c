"""Ray actors: workers that play, and policies that they share."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import eto_gym
from eto_gym.agents.policy import Conversation, Policy, PolicyReply
from eto_gym.agents.rollout.engine import Episode
from eto_gym.agents.rollout.local_launcher import Message, play_requested
from eto_gym.agents.rollout.spec import RolloutSpec
from eto_gym.errors import EtoGymError
from eto_gym.processes import leave_group

logger = logging.getLogger(__name__)


class VersionError(EtoGymError):
    """A machine of the cluster has another version of eto-gym."""


class Origin(NamedTuple):
    """What actors are told of the process that they play for.

    Attributes:
        folder: Its working folder: relative paths start there.
        version: Its version of eto-gym.
    """

    folder: str
    version: str


def settle(origin: Origin) -> None:
    """Make this process play as one of its origin's own children would.

    Raises:
        VersionError: Another version of eto-gym is installed here.
    """
    if eto_gym.__version__ != origin.version:
        raise VersionError(
            f"expected eto-gym {origin.version} on every machine, got {eto_gym.__version__} here"
        )
    leave_group()
    # Where the folder is not there, relative paths are not either, and `place` tells why.
    with contextlib.suppress(OSError):
        os.chdir(origin.folder)


def place() -> str:
    """Return what to look at where this process misses something: its machine and its folder."""
    return f"{socket.gethostname()}, in {Path.cwd()}"


class WorkerActor:
    """Plays in a thread of its actor, and hands messages over when it is asked."""

    def __init__(self, spec: RolloutSpec, slots: int | None, origin: Origin) -> None:
        self._episodes: queue.SimpleQueue[Sequence[Episode]] = queue.SimpleQueue()
        self._messages: queue.SimpleQueue[tuple[Message, ...]] = queue.SimpleQueue()
        threading.Thread(target=self._play, args=(spec, slots, origin), daemon=True).start()

    def exchange(self, handed: list[Sequence[Episode]]) -> list[Message]:
        """Take episodes; wait for a message, return all there are; none means the end."""
        for episodes in handed:
            self._episodes.put(episodes)
        messages = list(self._messages.get())
        while messages and not self._messages.empty():
            said = self._messages.get()
            if not said:
                self._messages.put(said)
                break
            messages += said
        return messages

    def _play(self, spec: RolloutSpec, slots: int | None, origin: Origin) -> None:
        def send(message: Message) -> None:
            if isinstance(message, str):  # what ends the run; it may be for want of a file here
                message = f"{message} (on {place()})"
            self._messages.put((message,))

        try:
            settle(origin)
            play_requested(spec, slots, send, self._episodes.get)
        except VersionError as err:
            send(str(err))
        finally:
            self._messages.put(())


class PolicyActor:
    """A policy, asked by the workers that share it, one batch at a time."""

    def __init__(self, make_policy: Callable[[], Policy], origin: Origin) -> None:
        self._failure = ""
        self._live: set[str] = set()
        try:
            settle(origin)
            self._policy = make_policy()
        except Exception as err:  # it would fail again and again: tell those who ask
            self._failure = f"{type(err).__name__}: {err} (on {place()})"

    def name(self) -> str:
        """Return the policy's name.

        Raises:
            EtoGymError: The policy could not be made.
        """
        if self._failure:
            raise EtoGymError(self._failure)
        return self._policy.name

    def act(self, conversations: Sequence[Conversation]) -> list[PolicyReply]:
        """Answer a batch."""
        self._live.update(conversation.key for conversation in conversations)
        return self._policy.act(conversations)

    def release(self, key: str) -> None:
        """Forget an episode."""
        self._live.discard(key)
        self._policy.release(key)

    def forget(self, worker: str) -> None:
        """Forget all episodes of a worker that has ended."""
        for key in [key for key in self._live if key.startswith(worker)]:
            self.release(key)


class RemotePolicy:
    """The workers' side of a policy actor.

    Keys bear the worker's name: an episode that is played again, after a worker was lost, has
    nothing to do with what the policy still holds of the first attempt.
    """

    def __init__(self, actor: Any, worker: str) -> None:
        self._actor = actor
        self._worker = worker
        self.name = str(self._ask(actor.name))

    def act(self, conversations: Sequence[Conversation]) -> list[PolicyReply]:
        """Send the batch to the policy, without the environments."""
        sent = [replace(c, key=self._worker + c.key, env=None) for c in conversations]
        return cast("list[PolicyReply]", self._ask(self._actor.act, sent))

    def release(self, key: str) -> None:
        """Tell the policy; its answer is not waited for."""
        self._actor.release.remote(self._worker + key)

    def _ask(self, method: Any, *args: Any) -> Any:
        import ray

        try:
            return ray.get(method.remote(*args))
        except ray.exceptions.RayTaskError as err:
            raise err.cause from None  # what the policy raised, where it raised it
        except ray.exceptions.RayError:
            # The policy's process is gone, and its caches with it: so is this worker, whose
            # episodes are then played again from their beginning.
            logger.exception("the policy actor is lost")
            os._exit(1)
