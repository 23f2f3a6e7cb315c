"""The rollout engine: plays a list of episodes with one policy on many environments at once."""

from __future__ import annotations

import itertools
import logging
import pickle
import queue
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import gymnasium as gym
from gymnasium.vector import AutoresetMode

from eto_gym.agents.policy import Conversation, Policy, PolicyReply, StreamingPolicy
from eto_gym.agents.rollout.notices import Notices
from eto_gym.agents.rollout.policy_caller import PolicyCaller
from eto_gym.agents.rollout.slot import Episode, EpisodeEnv, Slot, plan_episodes
from eto_gym.conversation import Dialogue, PromptStyle
from eto_gym.errors import EtoGymError
from eto_gym.history import FULL, StateWriter, check_history, no_state
from eto_gym.prompt import Prompt
from eto_gym.trajectories import ErrorKind, Trajectory
from eto_gym.vector import SlotResult, TextVectorEnv

__all__ = ["Episode", "RetryPolicy", "Rollout", "plan_episodes"]

logger = logging.getLogger(__name__)

_Reply: TypeAlias = tuple[Slot, PolicyReply]

_PATIENCE = 0.5
"""How long the policy waits for all environments, as a share of the time that its last batch took.

If they take longer it answers as soon as half of them wait, and the others go on stepping
meanwhile. Environments that are fast beside the policy so give it whole batches, for which a model
takes hardly longer than for half of one."""

_FIRST_PATIENCE = 10.0
"""Seconds that the first batch waits for all environments, which are still being made."""

_BLAMELESS = 10
"""How often an episode may be lost by what another one does before that counts as an attempt."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Which failed episodes are played again in the same run, and how often.

    Attributes:
        attempts: How often an episode is played at most.
        kinds: Kinds of errors that another attempt may avoid. By default those that are a matter of
            luck. A policy that gave up, or a conversation that did not fit, would do so again. An
            episode that was lost with a process while another was at work there ("worker") is
            played again without using up an attempt, ten times at most.
    """

    attempts: int = 3
    kinds: frozenset[ErrorKind] = frozenset({"environment", "timeout", "worker"})

    def __post_init__(self) -> None:
        """Reject a number of attempts that plays nothing."""
        if self.attempts < 1:
            raise EtoGymError(f"expected attempts >= 1, got {self.attempts}")


class Rollout:
    """Plays episodes to completion on a fixed number of slots.

    The slots are those of a vector environment, in this process or in worker processes. A slot
    whose episode ends takes the next one at once, and the policy always answers all conversations
    that wait for it in one batch. A `StreamingPolicy` gets each conversation by itself instead, as
    soon as it waits.

    Environments in worker processes, and ScienceWorld's on their lanes, step while the policy
    answers those that are ready. Others step in this thread, where the batches, and so the rounding
    in a local model, are the same in every run.

    A failure in an environment or in the policy ends the episode concerned, which is played again
    or recorded with its error kind; the others go on. A worker process that dies or hangs is
    replaced. Errors are never scored. Only when the policy fails again and again does the rollout
    stop, with the last error.
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
        env_workers: int = 0,
        step_timeout: float | None = None,
        history: str = FULL,
        record_admissible: bool = False,
        record_seconds: bool = False,
        player: Mapping[str, Any] | None = None,
    ) -> None:
        """Prepare a rollout; environments are made when they are first needed.

        Args:
            make_env: Makes one environment, as `gym.make` does. Where there are worker processes
                it must be picklable: a module's function, or an `EnvMaker`.
            policy: Answers conversations.
            slots: Environments that play at the same time; the policy's largest batch.
            prompt_style: What precedes the first observation; see `ConversationEnv`.
            prompt: Replaces the benchmark's own prompt.
            retry: Which failed episodes are played again; None takes `RetryPolicy()`.
            env_workers: Processes over which the environments are spread, while the policy stays in
                this one. 0 (the default) plays in this process, where nothing need be sent.
            step_timeout: Seconds that a step or reset of an environment may take before its episode
                ends with the error "timeout". The process in which it hangs is then killed, so this
                implies one worker process at least; the episodes of the other environments there
                are played again from their beginning, of which there are fewer in each the more
                workers there are. None (the default) sets no limit.
            history: How much of a conversation the policy reads; see `ConversationEnv`.
            record_admissible: Record the admissible actions of every turn with the trajectory, in
                its `facts`; the environments must have been made to tell them.
            record_seconds: Record how long every reply took. Off by default, since a rollout that
                is played again then stores the same bytes.
            player: What is recorded of the model that plays; see `Trajectory`.

        Raises:
            EtoGymError: The policy looks into its environments, or `make_env` cannot be sent, but
                worker processes are asked for.
        """
        if slots < 1:
            raise ValueError(f"expected slots >= 1, got {slots}")
        if env_workers < 0:
            raise ValueError(f"expected env_workers >= 0, got {env_workers}")
        if step_timeout is not None and step_timeout <= 0:
            raise ValueError(f"expected step_timeout > 0 or None, got {step_timeout}")
        self.policy = policy
        self.slots = slots
        self.retry = retry or RetryPolicy()
        self.step_timeout = step_timeout
        self.env_workers = env_workers if step_timeout is None else max(1, env_workers)
        self._make_env = make_env
        self._prompt_style: PromptStyle = prompt_style
        self._history = check_history(history)
        self.notices = Notices(history)
        self._prompt = prompt
        self._record_admissible = record_admissible
        self._record_seconds = record_seconds
        self._player = dict(player or {})
        if self.env_workers:
            self._check_workers()

    def play(self, episodes: Iterable[Episode]) -> Iterator[Trajectory]:
        """Play the episodes; yield each one's trajectory as it ends, in no particular order.

        Args:
            episodes: Asked for the next one whenever a slot is free; need not be known beforehand.
        """
        iterator = iter(episodes)
        # There need not be more environments than there are episodes.
        first = list(itertools.islice(iterator, self.slots))
        if not first:
            return
        play = _Play(self, self._new_vector(len(first)), itertools.chain(first, iterator))
        try:
            yield from play.trajectories()
        finally:
            play.close()

    def close(self) -> None:
        """Close the policy, if it holds anything to close (connections, say)."""
        close = getattr(self.policy, "close", None)
        if close is not None:
            close()

    def new_slots(self, vector: TextVectorEnv) -> list[Slot]:
        """Return a slot for each of a vector's."""
        prompt = self._prompt or vector.call_slots([0], "prompt")[0]
        (card,) = vector.call_slots([0], "card")
        writer: StateWriter = no_state
        if self._history.startswith("state"):
            (writer,) = vector.call_slots([0], "state_writer")
        dialogues = [
            Dialogue(prompt, self._prompt_style, history=self._history, state_writer=writer)
            for _ in range(vector.num_envs)
        ]
        if (check := getattr(self.policy, "check_prompt", None)) is not None:
            check(dialogues[0].head, self._history)
        return [
            Slot(
                i,
                dialogue,
                policy_name=self.policy.name,
                card=card,
                record_admissible=self._record_admissible,
                record_seconds=self._record_seconds,
                player=self._player,
            )
            for i, dialogue in enumerate(dialogues)
        ]

    def _new_vector(self, count: int) -> TextVectorEnv:
        options: dict[str, Any] = {}
        if self.env_workers:
            options["vectorization"] = "process"
            options["workers"] = min(self.env_workers, count)
            options["worker_timeout"] = self.step_timeout
        return TextVectorEnv(
            self._make_env,
            count,
            autoreset_mode=AutoresetMode.DISABLED,
            env_wrappers=[EpisodeEnv],
            **options,
        )

    def _check_workers(self) -> None:
        asked = "env_workers" if self.step_timeout is None else "step_timeout"
        if getattr(self.policy, "needs_env", False):
            raise EtoGymError(
                f"the policy {self.policy.name!r} looks into its environments, which {asked} puts "
                f"into other processes: leave out {asked}; to use more cores, play in several "
                "processes that have a policy each (workers)"
            )
        try:
            pickle.dumps(self._make_env)
        except Exception as err:
            raise EtoGymError(
                f"{asked} puts environments into other processes, for which make_env must be "
                f"picklable: a module's function, or eto_gym.vector.EnvMaker(id, kwargs) ({err})"
            ) from err


class _Play:
    """One run of a rollout: which slots play, which wait, and which episodes are left."""

    def __init__(
        self, rollout: Rollout, vector: TextVectorEnv, episodes: Iterator[Episode]
    ) -> None:
        self._rollout = rollout
        self._policy = rollout.policy
        self._streams = isinstance(rollout.policy, StreamingPolicy)
        self._caller = PolicyCaller(rollout.policy)
        self._vector = vector
        self._episodes = episodes
        self._again: deque[Episode] = deque()
        self._attempts: Counter[tuple[str, int]] = Counter()
        self._blameless: Counter[tuple[str, int]] = Counter()
        self._slots: list[Slot] = []
        self._idle: list[Slot] = []
        self._busy: dict[Slot, None] = {}  # an ordered set
        self._stepping = 0  # how many of the busy ones are the vector's
        self._ready: list[Slot] = []  # busy, and waiting for the policy
        self._asked: dict[Slot, Future[PolicyReply]] = {}  # busy, and waiting for their reply
        self._resolved: queue.SimpleQueue[Slot] = queue.SimpleQueue()  # whose reply is there
        self._ask_at = time.monotonic() + _FIRST_PATIENCE

    def trajectories(self) -> Iterator[Trajectory]:
        """Play until no episode is left."""
        self._slots = self._rollout.new_slots(self._vector)
        self._idle = self._slots[::-1]
        while self._fill():
            yield from self._play(self._streamed() if self._streams else self._batch())
            for result in self._results():
                if (trajectory := self._take(result)) is not None:
                    yield trajectory

    def close(self) -> None:
        """Release what still plays, and close the environments."""
        for future in self._asked.values():
            future.cancel()
        for slot in self._busy:
            self._release(slot)
        try:
            self._vector.close()
        except Exception:
            logger.exception("the environments could not be closed")

    # --- the environments -------------------------------------------------------------------------

    def _fill(self) -> bool:
        """Give free slots their next episodes; return whether anything plays."""
        started = []
        while self._idle:
            episode = next(self._episodes, None)
            if episode is None and self._again:
                episode = self._again.popleft()
            if episode is None:
                break
            slot = self._idle.pop()
            self._busy[slot] = None
            started.append((slot.index, slot.start(episode)))
        if started:
            indices, options = zip(*started, strict=True)
            self._stepping += len(indices)
            self._vector.send_resets(indices, options=options)
        return bool(self._busy)

    def _play(self, replies: Sequence[_Reply]) -> list[Trajectory]:
        """Let the environments take up the replies; return what ends without them."""
        ended, indices, actions = [], [], []
        for slot, reply in replies:
            outcome = slot.read(reply)
            if isinstance(outcome, str):
                indices.append(slot.index)
                actions.append(outcome)
            elif outcome is None:
                self._wait_for_policy(slot)
            elif (trajectory := self._end(slot, outcome)) is not None:
                ended.append(trajectory)
        if indices:
            self._stepping += len(indices)
            self._vector.send_steps(indices, actions)
        return ended

    def _results(self) -> list[SlotResult]:
        """Wait until environments have answered, or it is time to look after the policy."""
        if not self._stepping:
            return []
        patience = None
        if len(self._ready) >= self._stepping:
            patience = max(0.0, self._ask_at - time.monotonic())
        return self._vector.receive(patience)

    def _take(self, result: SlotResult) -> Trajectory | None:
        slot = self._slots[result.slot]
        self._stepping -= 1
        if result.was_reset:
            local = not self._rollout.env_workers
            trajectory = slot.begin(result, self._vector.envs[slot.index] if local else None)
        else:
            trajectory = slot.observe(result)
        if trajectory is not None:
            return self._end(slot, trajectory)
        self._wait_for_policy(slot)
        return None

    def _end(self, slot: Slot, trajectory: Trajectory) -> Trajectory | None:
        """Free the slot; return the trajectory unless the episode is to be played again."""
        self._rollout.notices.look_at(trajectory)
        del self._busy[slot]
        self._idle.append(slot)
        self._release(slot)
        key, retry = trajectory.key, self._rollout.retry
        if trajectory.error in retry.kinds:
            blameless = trajectory.error == "worker" and self._blameless[key] < _BLAMELESS
            if blameless or self._attempts[key] - self._blameless[key] + 1 < retry.attempts:
                self._attempts[key] += 1
                self._blameless[key] += blameless
                logger.warning("%s#%d failed (%s): played again", *key, trajectory.error)
                assert slot.episode is not None
                self._again.append(slot.episode)
                return None
        self._blameless.pop(key, None)
        if failed := self._attempts.pop(key, 0):
            return replace(trajectory, usage={**trajectory.usage, "failed_attempts": failed})
        return trajectory

    def _release(self, slot: Slot) -> None:
        if slot.conversation is not None:
            self._policy.release(slot.conversation.key)

    # --- the policy -------------------------------------------------------------------------------

    def _wait_for_policy(self, slot: Slot) -> None:
        if self._streams:
            self._submit(slot)
        else:
            self._ready.append(slot)

    def _batch(self) -> list[_Reply]:
        """Let the policy answer all that is ready, if that is better than waiting for more."""
        slots = self._ready
        if not slots or (
            self._stepping and (len(slots) < self._stepping or time.monotonic() < self._ask_at)
        ):
            return []
        self._ready = []
        begun = time.monotonic()
        replies = self._caller.ask([_conversation(slot) for slot in slots])
        now = time.monotonic()
        self._ask_at = now + _PATIENCE * (now - begun)
        return list(zip(slots, replies, strict=True))

    def _submit(self, slot: Slot) -> None:
        """Ask a streaming policy; that the reply is there is told to whatever then waits."""
        future = self._asked[slot] = self._caller.submit(_conversation(slot))

        def tell(_: Future[PolicyReply]) -> None:
            self._resolved.put(slot)
            self._vector.wake()

        future.add_done_callback(tell)

    def _streamed(self) -> list[_Reply]:
        """Return the replies that are there; wait for one if no environment is at work."""
        replies: list[_Reply] = []
        try:
            while True:
                wait = not (replies or self._stepping)
                slot = self._resolved.get(block=wait)
                future = self._asked.pop(slot)
                replies.append((slot, self._caller.resolve(_conversation(slot), future)))
        except queue.Empty:
            return replies


def _conversation(slot: Slot) -> Conversation:
    assert slot.conversation is not None  # its environment waits for a reply
    return slot.conversation
