"""The processes that run a loop together: which one this is, and what it learns from the others.

Alone, which is the rule, everything here is a plain call: nothing is joined, sent or waited for.

An error in `first` or `each` is raised in every process. One in work that all do together, such as
training, is raised where it happens: that process ends, upon which the launcher ends the others,
whatever they wait for. If the launcher itself is killed, its processes end, too. Those of a machine
that is gone without a word are missed after some minutes (see `heartbeat`).
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from eto_gym.errors import EtoGymError
from eto_gym.processes import follow_parent
from eto_gym.trainers.run.heartbeat import watch_machines

T = TypeVar("T")

_UNSEEN = 120.0
"""Seconds until a file that another machine wrote must be visible; NFS may take one minute."""


class _Outcome(NamedTuple, Generic[T]):
    """What a process tells the others about its work."""

    result: T | None = None
    error: str = ""


@dataclass(frozen=True)
class ProcessGroup:
    """One of the processes that run a loop; by default the only one.

    Attributes:
        index: Number of this process, from 0.
        count: Number of processes.
        device: Where this process puts the policies that it plays with, as `LocalPolicy` names it.
    """

    index: int = 0
    count: int = 1
    device: str = "auto"

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return self.index == 0

    def first(self, work: Callable[[], T]) -> T:
        """Let the first process do `work`, and return its result in all of them.

        Args:
            work: What the first process does; the others wait, so it must not need them.

        Raises:
            EtoGymError: It failed; in the first process its own error is raised.
        """
        if self.count == 1:
            return work()
        outcome: _Outcome[T] = _Outcome()
        failure = None
        if self.is_first:
            outcome, failure = _attempt(work)
        outcome = self._broadcast(outcome)
        if failure is not None:
            raise failure
        if outcome.error:
            raise EtoGymError(f"the first process failed: {outcome.error}")
        return outcome.result  # type: ignore[return-value]

    def each(self, work: Callable[[], T]) -> list[T]:
        """Let each process do its own `work`, and return the results of all, in their order.

        Args:
            work: What this process does; the others may be done long before, so it must not need
                them.

        Raises:
            EtoGymError: That of some process failed; where it did, its own error is raised.
        """
        if self.count == 1:
            return [work()]
        mine, failure = _attempt(work)
        outcomes: list[_Outcome[T]] = self._gather(mine)
        if failure is not None:
            raise failure
        for index, outcome in enumerate(outcomes):
            if outcome.error:
                raise EtoGymError(f"process {index} of {self.count} failed: {outcome.error}")
        return [outcome.result for outcome in outcomes]  # type: ignore[misc]

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return this process's part of what is dealt out: each item is dealt to one process."""
        return items[self.index :: self.count]

    def see(self, path: Path) -> None:
        """Wait until this process sees what another one has written.

        Raises:
            EtoGymError: It does not: the machines share no folder there.
        """
        deadline = time.monotonic() + _UNSEEN
        while not path.exists():
            if time.monotonic() > deadline:
                raise EtoGymError(
                    f"process {self.index} of {self.count} does not see {path}, which another one "
                    "wrote: on several machines the run folder must be one that they share"
                )
            time.sleep(0.1)

    def _broadcast(self, value: Any) -> Any:
        """Return what the first process has."""
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def _gather(self, value: Any) -> list[Any]:
        """Return what all processes have."""
        from accelerate.utils import gather_object

        return list(gather_object([value]))


def _attempt(work: Callable[[], T]) -> tuple[_Outcome[T], Exception | None]:
    """Do `work`; return what to tell of it, and the error to raise once it is told."""
    try:
        return _Outcome(work()), None
    except Exception as err:
        words = str(err) if isinstance(err, EtoGymError) else f"{type(err).__name__}: {err}"
        return _Outcome(error=words), err


def launched() -> ProcessGroup:
    """Return the processes that `accelerate launch` or torchrun started together; else this one.

    Raises:
        EtoGymError: They were started in a way in which they cannot play.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ProcessGroup()
    return _joined()


@functools.cache
def _joined() -> ProcessGroup:
    _check_launch()
    from eto_gym.trainers.run import base_trainer

    state = base_trainer.processes()
    follow_parent()
    watch_machines(state.process_index, state.num_processes)
    return ProcessGroup(state.process_index, state.num_processes, str(state.device))


def _check_launch() -> None:
    """Refuse settings with which `from_pretrained` gives all but the first process no weights."""
    if _on("ACCELERATE_USE_FSDP") and _on("FSDP_CPU_RAM_EFFICIENT_LOADING"):
        raise EtoGymError(
            "fsdp_cpu_ram_efficient_loading leaves every process but the first without weights to "
            "play with: set it to false, as configs/accelerate/fsdp.yaml does"
        )
    zero = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "")
    if _on("ACCELERATE_USE_DEEPSPEED") and zero == "3":
        raise EtoGymError(
            "DeepSpeed's ZeRO-3 spreads whatever model is loaded, also those that play: run the "
            "loop with ZeRO-2 or FSDP, or call run_sft and run_dpo alone under ZeRO-3"
        )


def _on(name: str) -> bool:
    return os.environ.get(name, "").lower() in {"1", "true", "yes", "on"}
