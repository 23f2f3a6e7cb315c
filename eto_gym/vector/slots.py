"""The state machine of slots: what is asked of each, and what it has answered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium.error import AlreadyPendingCallError, ResetNeeded
from gymnasium.vector import AutoresetMode

from eto_gym.vector.group import RESET, STEP, Answer, Failure, Operation, Request
from eto_gym.vector.local import LocalBackend
from eto_gym.vector.options import PerSlot
from eto_gym.vector.workers import ProcessBackend


class SlotResult(NamedTuple):
    """What one slot answered to a step or a reset.

    Attributes:
        slot: The slot.
        observation: Its observation now.
        reward: 0.0 for a reset.
        terminated: Whether the task ended.
        truncated: Whether the step limit was reached, or the environment failed.
        info: The info that belongs to `observation`.
        final: Only in mode SAME_STEP, when the episode ended: its last observation and info.
        was_reset: Whether an episode was started, by `reset_slots` or by the autoreset.
    """

    slot: int
    observation: str
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]
    final: tuple[str, dict[str, Any]] | None = None
    was_reset: bool = False

    @property
    def outcome(self) -> dict[str, Any]:
        """The info of the step that was taken: that of `final` where there is one."""
        return self.info if self.final is None else self.final[1]


class Slots:
    """Sends steps and resets to a backend, and turns its answers into results.

    What to do at the end of an episode, and after a failure, is decided here.

    Attributes:
        observations: The last observation of each slot.
        started: Whether each slot was ever reset.
        ended: Whether each slot's episode is over, and its next step or reset starts another.
        sent: What is under way: slot -> request.
        results: What was answered and not yet taken.
        lost: Idle slots whose episode was lost, which they tell at their next step.
    """

    def __init__(
        self, backend: LocalBackend | ProcessBackend, count: int, mode: AutoresetMode
    ) -> None:
        """Start with `count` slots that were never reset."""
        self._backend = backend
        self.count = count
        self.mode = mode
        self.observations = [""] * count
        self._infos: list[dict[str, Any]] = [{} for _ in range(count)]
        self.started = [False] * count
        self.ended = [False] * count
        self.sent: dict[int, Request] = {}
        self.results: dict[int, SlotResult | Exception] = {}
        self.lost: dict[int, Failure] = {}  # idle slots whose episode was lost
        self._broken: dict[int, SlotResult] = {}  # ended slots that wait for their reset
        self._retried: set[int] = set()
        self._seeds: list[int | None] = [None] * count
        self._losses = [0] * count
        self._reseed: set[int] = set()

    @property
    def pending(self) -> list[int]:
        """Slots whose results were not taken yet."""
        return sorted({*self.sent, *self.results})

    # --- asking ----------------------------------------------------------------------------------

    def send_steps(self, slots: Sequence[int], actions: Sequence[str]) -> None:
        """Take an action in some slots; see `TextVectorEnv.send_steps`.

        Raises:
            TypeError: An action is no text, or one text stands for all.
            ValueError: There is no such slot, or not one action for each.
            ResetNeeded: A slot was never reset, or has ended in mode DISABLED.
            AlreadyPendingCallError: A slot is under way.
        """
        self.check(slots)
        if isinstance(actions, str):  # its letters are no actions
            raise TypeError(f"expected a sequence of actions, one per slot, got {actions!r}")
        if len(actions) != len(slots):
            raise ValueError(f"expected {len(slots)} actions, got {len(actions)}")
        for slot, action in zip(slots, actions, strict=True):
            if not isinstance(action, str):
                raise TypeError(
                    f"expected an action of type str for slot {slot}, got {type(action).__name__}"
                )
            if not self.started[slot]:
                raise ResetNeeded(f"slot {slot} was never reset")
            if self.ended[slot] and self.mode is AutoresetMode.DISABLED:
                raise ResetNeeded(
                    f"the episode of slot {slot} has ended: reset it (options={{'reset_mask': ...}}"
                    " or reset_slots), or use another autoreset_mode"
                )
        self._refresh()
        requests = []
        for slot, action in zip(slots, actions, strict=True):
            if self.ended[slot]:
                requests.append(self._reset_request(slot, None, None))
            elif slot in self.lost:
                self._accept(Answer(slot, problem=self.lost.pop(slot)))
            else:
                requests.append((slot, STEP, str(action)))
        self._submit(requests)

    def check(self, slots: Iterable[int]) -> None:
        """Refuse slots that do not exist or are under way.

        Raises:
            ValueError: A slot does not exist, or is named twice.
            AlreadyPendingCallError: A slot is under way.
        """
        chosen = list(slots)
        if len(set(chosen)) != len(chosen) or not all(0 <= s < self.count for s in chosen):
            raise ValueError(f"expected different slots within 0..{self.count - 1}, got {chosen}")
        busy = [slot for slot in chosen if slot in self.sent or slot in self.results]
        if busy:
            raise AlreadyPendingCallError(f"slots {busy} are under way: receive them first", "step")

    def control(
        self, operation: Operation, arguments: Sequence[Any], slots: Sequence[int] | None = None
    ) -> tuple[Any, ...]:
        """Do to slots what is not play, in their order; see `EnvGroup.control`.

        Raises:
            AlreadyPendingCallError: Some slot is under way.
        """
        if self.sent:
            raise AlreadyPendingCallError(f"slots {self.pending} are under way", operation)
        self._refresh()
        chosen = range(self.count) if slots is None else slots
        by_slot = dict(zip(chosen, arguments, strict=True))
        try:
            results = self._backend.control(operation, by_slot)
        finally:
            self._note_losses()
        return tuple(results[slot] for slot in chosen)

    def send_resets(
        self, slots: Sequence[int], seeds: PerSlot[int], options: PerSlot[dict[str, Any]]
    ) -> None:
        """Start an episode in some slots."""
        self.check(slots)
        self._refresh()
        self._submit([self._reset_request(slot, seeds[slot], options[slot]) for slot in slots])

    def _reset_request(
        self, slot: int, seed: int | None, options: dict[str, Any] | None
    ) -> Request:
        self.lost.pop(slot, None)
        if seed is not None:
            self._seeds[slot] = seed
            self._losses[slot] = 0
        elif slot in self._reseed and (last := self._seeds[slot]) is not None:
            # The generator was lost with the worker; its successor depends on the seed as well.
            seed = int(np.random.SeedSequence([last, self._losses[slot]]).generate_state(1)[0])
        self._reseed.discard(slot)
        return (slot, RESET, (seed, options))

    def _submit(self, requests: list[Request]) -> None:
        for request in requests:
            self.sent[request[0]] = request
        if requests:
            self._backend.submit(requests)

    def wait_for(self, slots: Sequence[int]) -> Sequence[int]:
        """Wait until nothing of these slots is under way; return them."""
        while any(slot in self.sent for slot in slots):
            self.pump(None)
        return slots

    def pump(self, timeout: float | None) -> None:
        """Take in answers, after waiting for some."""
        answers = self._backend.receive(timeout)
        self._note_losses()
        for answer in answers:
            self._accept(answer)

    def take(self, slots: Sequence[int]) -> list[SlotResult]:
        """Take results away; if one is an error of the caller's, raise it."""
        results = []
        error: Exception | None = None
        for slot in slots:
            result = self.results.pop(slot)
            if isinstance(result, SlotResult):
                results.append(result)
            else:
                error = error or result
        if error is not None:
            raise error
        return results

    # --- taking in answers -----------------------------------------------------------------------

    def _accept(self, answer: Answer) -> None:
        """Turn an answer of the backend into a result, or into another request."""
        slot = answer.slot
        request = self.sent.pop(slot, None)
        was_reset = request is not None and request[1] == RESET
        problem = answer.problem
        if problem is None and slot not in self._broken:
            self._finish(SlotResult(*answer[:7], was_reset or answer.final is not None))
        elif isinstance(problem, Exception):
            self._broken.pop(slot, None)
            self.results[slot] = problem
        else:
            self._mend(answer, request, was_reset)

    def _mend(self, answer: Answer, request: Request | None, was_reset: bool) -> None:
        """Deal with a failure, or with the end of one that was dealt with."""
        slot, failure = answer.slot, answer.problem
        broken = self._broken.get(slot)
        if failure is None:  # the reset that was owed
            assert broken is not None
            del self._broken[slot]
            self._finish(
                broken._replace(observation=answer.observation, info=answer.info, was_reset=True)
            )
            return
        assert isinstance(failure, Failure)
        if was_reset and failure.worker and slot not in self._retried:
            # The worker was lost, which need not have to do with this slot: once more.
            assert request is not None
            self._retried.add(slot)
            seed, options = request[2]
            self._submit([self._reset_request(slot, seed, options)])
            return
        self._retried.discard(slot)
        report = {
            **{key: self._infos[slot].get(key, "") for key in ("task_id", "task_type")},
            "score": 0.0,
            "success": False,
            "error": failure.kind,
            "error_detail": failure.detail,
        }
        lost = SlotResult(slot, "", 0.0, False, True, report, None, was_reset)
        if self.mode is not AutoresetMode.SAME_STEP:
            self._finish(lost)
        elif was_reset:  # there is no episode now; the next step says so and tries again
            self.lost[slot] = failure
            self._broken.pop(slot, None)
            self._finish(lost if broken is None else broken._replace(info=report))
        else:
            final = answer.final or ("", report)
            self._broken[slot] = SlotResult(
                slot,
                "",
                answer.reward,
                answer.terminated,
                answer.truncated or answer.final is None,
                {},
                final,
            )
            self._submit([self._reset_request(slot, None, None)])

    def _finish(self, result: SlotResult) -> None:
        slot = result.slot
        self._retried.discard(slot)
        self.started[slot] = True
        self.ended[slot] = (
            result.terminated or result.truncated
        ) and self.mode is not AutoresetMode.SAME_STEP
        self.observations[slot] = result.observation
        self._infos[slot] = result.info
        self.results[slot] = result

    def shown(self, slot: int) -> dict[str, str]:
        """Return what a snapshot keeps of a slot's observation: wrappers may have changed it."""
        observation = self.observations[slot]
        return {"shown": observation} if isinstance(observation, str) else {}

    def restore(self, slot: int, state: dict[str, Any]) -> None:
        """Take note that an environment was set to a snapshot."""
        self.lost.pop(slot, None)
        self.started[slot] = True
        self.ended[slot] = bool(state.get("ended", False))
        self.observations[slot] = state.get("shown", state["env"]["observation"])
        self._infos[slot] = {"task_id": state["env"]["task_id"]}

    def _refresh(self) -> None:
        """Let the backend notice what has died since the last call."""
        self._backend.refresh()
        self._note_losses()

    def _note_losses(self) -> None:
        """Remember what lost workers took with them, beyond what was under way."""
        for slots, reason in self._backend.take_losses():
            for slot in slots:
                self._losses[slot] += 1
                self._reseed.add(slot)
                if slot not in self.sent and self.started[slot] and not self.ended[slot]:
                    self.lost[slot] = Failure("worker", reason)
