"""The rollout engine: plays a list of episodes with one policy on many environments at once."""

from __future__ import annotations

import functools
import logging
import queue
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, replace
from typing import cast

import gymnasium as gym

from eto_gym.agents.policy import Conversation, Policy, PolicyReply, StreamingPolicy
from eto_gym.agents.slot import Episode, Slot, plan_episodes
from eto_gym.agents.stepping import Event, Events, InlineStepper, Stepper, ThreadStepper, Work
from eto_gym.conversation import ConversationEnv, PromptStyle
from eto_gym.errors import EtoGymError
from eto_gym.prompt import Prompt
from eto_gym.trajectories import ErrorKind, Trajectory

__all__ = ["Episode", "RetryPolicy", "Rollout", "plan_episodes"]

logger = logging.getLogger(__name__)

_PATIENCE = 0.5
"""How long the policy waits for all environments, as a share of the time that its last batch took.

If they take longer it answers as soon as half of them wait, and the others go on stepping
meanwhile. Environments that are fast beside the policy so give it whole batches, for which a model
takes hardly longer than for half of one."""

_FIRST_PATIENCE = 10.0
"""Seconds that the first batch waits for all environments, which are still being made."""

_FAILURES = 10
"""Conversations that the policy may fail on in a row before the rollout stops."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Which failed episodes are played again in the same run, and how often.

    Attributes:
        attempts: How often an episode is played at most.
        kinds: Kinds of errors that another attempt may avoid. By default those that are a matter of
            luck. A policy that gave up, or a conversation that did not fit, would do so again.
    """

    attempts: int = 3
    kinds: frozenset[ErrorKind] = frozenset({"environment", "timeout", "worker"})

    def __post_init__(self) -> None:
        """Reject a number of attempts that plays nothing."""
        if self.attempts < 1:
            raise EtoGymError(f"expected attempts >= 1, got {self.attempts}")


class Rollout:
    """Plays episodes to completion on a fixed number of slots.

    Every slot holds one environment. A slot whose episode ends takes the next one at once, and the
    policy always answers all conversations that wait for it in one batch. A `StreamingPolicy` gets
    each conversation by itself instead, as soon as it waits.

    Environments whose engine runs outside of Python (`metadata["step_threads"]`) step in threads
    while the policy answers those that are ready. Others step in this thread, where the batches,
    and so the rounding in a local model, are the same in every run.

    A failure in an environment or in the policy ends the episode concerned, which is played again
    or recorded with its error kind; the others go on. Errors are never scored. Only when the policy
    fails again and again does the rollout stop, with the last error.
    """

    def __init__(
        self,
        make_env: Callable[[], gym.Env[str, str]],
        policy: Policy,
        *,
        slots: int = 64,
        prompt_style: PromptStyle = "one-shot",
        prompt: Prompt | None = None,
        retry: RetryPolicy | None = None,
        step_threads: int | None = None,
        step_timeout: float | None = None,
    ) -> None:
        """Prepare a rollout; environments are made when they are first needed.

        Args:
            make_env: Makes one environment, as `gym.make` does.
            policy: Answers conversations.
            slots: Environments that play at the same time; the policy's largest batch.
            prompt_style: What precedes the first observation; see `ConversationEnv`.
            prompt: Replaces the benchmark's own prompt.
            retry: Which failed episodes are played again; None takes `RetryPolicy()`.
            step_threads: Threads in which environments step; 0 steps in the calling thread. None
                (the default) takes the environment's own `metadata["step_threads"]`, or 0.
            step_timeout: Seconds that a step or reset of an environment may take before its episode
                ends with the error "timeout" and the environment is replaced. Makes the steps run
                in at least one thread. None (the default) sets no limit.
        """
        if slots < 1:
            raise ValueError(f"expected slots >= 1, got {slots}")
        if step_timeout is not None and step_timeout <= 0:
            raise ValueError(f"expected step_timeout > 0 or None, got {step_timeout}")
        self.policy = policy
        self.slots = slots
        self.retry = retry or RetryPolicy()
        self.step_timeout = step_timeout
        self._step_threads = step_threads
        self._make_env = make_env
        self._prompt_style: PromptStyle = prompt_style
        self._prompt = prompt

    def play(self, episodes: Iterable[Episode]) -> Iterator[Trajectory]:
        """Play the episodes; yield each one's trajectory as it ends, in no particular order.

        Args:
            episodes: Asked for the next one whenever a slot is free; need not be known beforehand.
        """
        play = _Play(self, iter(episodes))
        try:
            yield from play.trajectories()
        finally:
            play.close()

    def close(self) -> None:
        """Close the policy, if it holds anything to close (connections, say)."""
        close = getattr(self.policy, "close", None)
        if close is not None:
            close()

    def new_slot(self) -> Slot:
        """Return an empty slot."""
        return Slot(self._new_env, self.policy.name)

    def new_stepper(self, events: Events, env: gym.Env[str, str]) -> Stepper:
        """Return the stepper that suits environments such as `env`."""
        threads = self._step_threads
        if threads is None:
            threads = int(env.metadata.get("step_threads", 0))
        if self.step_timeout is not None:
            threads = max(1, threads)
        if threads == 0:
            return InlineStepper(events)
        return ThreadStepper(events, threads=min(threads, self.slots), timeout=self.step_timeout)

    def _new_env(self) -> ConversationEnv:
        return ConversationEnv(
            self._make_env(), prompt_style=self._prompt_style, prompt=self._prompt
        )


class _Play:
    """One run of a rollout: which slots play, which wait, and which episodes are left."""

    def __init__(self, rollout: Rollout, episodes: Iterator[Episode]) -> None:
        self._rollout = rollout
        self._policy = rollout.policy
        self._streams = isinstance(rollout.policy, StreamingPolicy)
        self._events: Events = queue.SimpleQueue()
        self._stepper: Stepper | None = None
        self._episodes = episodes
        self._again: deque[Episode] = deque()
        self._attempts: Counter[tuple[str, int]] = Counter()
        self._idle: list[Slot] = []
        self._busy: dict[Slot, None] = {}  # an ordered set
        self._ready: list[Slot] = []  # busy, and waiting for the policy
        self._asked: dict[Slot, Future[PolicyReply]] = {}  # busy, and waiting for their reply
        self._stepping = 0  # how many of the busy ones are the stepper's
        self._ask_at = time.monotonic() + _FIRST_PATIENCE
        self._failures = 0

    def trajectories(self) -> Iterator[Trajectory]:
        """Play until no episode is left."""
        while self._fill():
            event = self._next_event()
            if event is not None:
                if (trajectory := self._handle(event)) is not None:
                    yield trajectory
                continue
            for slot in self._stepper.overdue() if self._stepper else ():
                self._stepping -= 1
                if (
                    trajectory := self._end(slot, slot.give_up("timeout"), reuse=False)
                ) is not None:
                    yield trajectory
            if self._ready and self._worth_asking():
                self._ask()

    def close(self) -> None:
        """Release what still plays, and close the environments."""
        for future in self._asked.values():
            future.cancel()
        at_work = self._stepper.close() if self._stepper else set()
        for slot in self._busy:
            if slot.conversation is not None:
                self._policy.release(slot.conversation.key)
        for slot in [*self._busy, *self._idle]:
            if slot not in at_work:
                slot.close()

    # --- scheduling -------------------------------------------------------------------------------

    def _fill(self) -> bool:
        """Give free slots their next episodes; return whether anything plays."""
        while len(self._busy) < self._rollout.slots:
            episode = next(self._episodes, None)
            if episode is None and self._again:
                episode = self._again.popleft()
            if episode is None:
                break
            slot = self._idle.pop() if self._idle else self._rollout.new_slot()
            if self._stepper is None:
                self._stepper = self._rollout.new_stepper(self._events, slot.open())
            self._busy[slot] = None
            self._step(slot, functools.partial(slot.start, episode))
        return bool(self._busy)

    def _step(self, slot: Slot, work: Work) -> None:
        assert self._stepper is not None
        self._stepping += 1
        self._stepper.submit(slot, work)

    def _next_event(self) -> Event | None:
        """Wait for news; return None when it is time to look after what is ready or overdue."""
        until = self._stepper.deadline if self._stepper else None
        if len(self._ready) >= max(1, self._stepping):
            ask_at = self._ask_at if self._stepping else 0.0
            until = ask_at if until is None else min(until, ask_at)
        wait = None if until is None else until - time.monotonic()
        try:
            return (
                self._events.get(timeout=wait)
                if wait is None or wait > 0
                else (self._events.get_nowait())
            )
        except queue.Empty:
            return None

    def _handle(self, event: Event) -> Trajectory | None:
        slot, outcome = event.slot, event.outcome
        if isinstance(outcome, BaseException):
            raise outcome
        if isinstance(outcome, Future):
            del self._asked[slot]
            self._step(slot, functools.partial(slot.advance, self._streamed(slot, outcome)))
            return None
        self._stepping -= 1
        if outcome is not None:
            return self._end(slot, outcome)
        if self._streams:
            self._submit(slot)
        else:
            self._ready.append(slot)
        return None

    def _end(self, slot: Slot, trajectory: Trajectory, *, reuse: bool = True) -> Trajectory | None:
        """Free the slot; return the trajectory unless the episode is to be played again."""
        del self._busy[slot]
        if reuse:
            self._idle.append(slot)
        if slot.conversation is not None:
            self._policy.release(slot.conversation.key)
        key, retry = trajectory.key, self._rollout.retry
        if trajectory.error in retry.kinds and self._attempts[key] + 1 < retry.attempts:
            self._attempts[key] += 1
            logger.warning("%s#%d failed (%s), and will be played again", *key, trajectory.error)
            assert slot.episode is not None
            self._again.append(slot.episode)
            return None
        if failed := self._attempts.pop(key, 0):
            return replace(trajectory, usage={**trajectory.usage, "failed_attempts": failed})
        return trajectory

    # --- the policy -------------------------------------------------------------------------------

    def _worth_asking(self) -> bool:
        """Tell whether a batch of what is ready is better than waiting for more."""
        if not self._stepping:
            return True
        return len(self._ready) >= self._stepping and time.monotonic() >= self._ask_at

    def _ask(self) -> None:
        """Let the policy answer all that is ready."""
        slots, self._ready = self._ready, []
        begun = time.monotonic()
        replies = self._replies([_conversation(slot) for slot in slots])
        now = time.monotonic()
        self._ask_at = now + _PATIENCE * (now - begun)
        for slot, reply in zip(slots, replies, strict=True):
            self._step(slot, functools.partial(slot.advance, reply))

    def _replies(self, conversations: Sequence[Conversation]) -> list[PolicyReply]:
        try:
            replies = self._policy.act(conversations)
            if len(replies) != len(conversations):
                raise _NoReplyError(f"{len(replies)} replies to {len(conversations)} conversations")
        except EtoGymError:
            raise  # the policy cannot work as it was set up
        except Exception as err:
            if len(conversations) == 1:
                return [self._failed(conversations[0], err)]
            half = len(conversations) // 2
            logger.warning("the policy failed on %d conversations: %r", len(conversations), err)
            return self._replies(conversations[:half]) + self._replies(conversations[half:])
        self._failures = 0
        return [_checked(reply) for reply in replies]

    def _submit(self, slot: Slot) -> None:
        """Ask a streaming policy; the reply becomes an event."""
        conversation = _conversation(slot)
        try:
            future = cast(StreamingPolicy, self._policy).submit(conversation)
        except EtoGymError:
            raise
        except Exception as err:
            future = Future()
            future.set_exception(err)
        self._asked[slot] = future
        future.add_done_callback(lambda done: self._events.put(Event(slot, done)))

    def _streamed(self, slot: Slot, future: Future[PolicyReply]) -> PolicyReply:
        try:
            reply = future.result()
        except EtoGymError:
            raise
        except (Exception, CancelledError) as err:
            return self._failed(_conversation(slot), err)
        self._failures = 0
        return _checked(reply)

    def _failed(self, conversation: Conversation, err: BaseException) -> PolicyReply:
        """Note that the policy failed on one conversation; stop where it does nothing else."""
        self._failures += 1
        if self._failures >= _FAILURES:
            raise EtoGymError(f"the policy failed {self._failures} times in a row: {err}") from err
        logger.error("the policy failed on %s", conversation.key, exc_info=err)
        return PolicyReply("", error="format" if isinstance(err, _NoReplyError) else "policy")


class _NoReplyError(Exception):
    """The policy returned something else than one reply per conversation."""


def _conversation(slot: Slot) -> Conversation:
    assert slot.conversation is not None  # its environment waits for a reply
    return slot.conversation


def _checked(reply: PolicyReply) -> PolicyReply:
    """Replace what is no reply; what a policy returns is not to be trusted."""
    if isinstance(reply, PolicyReply) and isinstance(reply.text, str):
        return reply
    logger.error("expected a PolicyReply with text, got %.200r", reply)
    return PolicyReply("", error="format")
