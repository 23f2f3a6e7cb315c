"""Trainer callbacks: progress, checkpoint markers, metrics."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from eto_gym.errors import EtoGymError
from eto_gym.files import read_object, strict, write_digests
from eto_gym.progress import Progress
from eto_gym.trainers.model import sharding as spread
from eto_gym.trainers.model.models import METRICS_FILE
from eto_gym.trainers.run import guards
from eto_gym.trainers.run.keep_best import HasProgress, KeepBest
from eto_gym.trainers.run.watch import Watch
from eto_gym.trainers.settings.base import TrainSettings
from eto_gym.trajectories import JsonlFile

COMPLETE = "complete"
"""Empty file, written last into a checkpoint: without it, the checkpoint is not resumed from."""
_FIRST = ("step", "epoch", "loss", "grad_norm", "learning_rate")


@dataclasses.dataclass(frozen=True)
class AttachedCallbacks:
    """The callbacks of a run that decide which weights are written in the end."""

    keeper: KeepBest | None
    guard: guards.ChosenGuard | None

    def settle(self, model: Any) -> tuple[int | None, list[str]]:
        """Put the weights that are worth keeping into `model`.

        Returns:
            The step that they are from, or None for those of the last step; and what to warn of.
        """
        warnings = []
        kept = None
        if self.guard is not None and self.guard.reason:
            warnings.append(self.guard.reason)
            if self.keeper is None:
                self.guard.load_kept(model)
                kept = self.guard.kept_step
        unit = "step"
        if self.keeper is not None:
            unit = self.keeper.unit
            if self.keeper.reason:
                warnings.append(self.keeper.reason)
            self.keeper.load_best(model)
            assert self.keeper.best is not None  # scored before the first step
            kept = self.keeper.best[0]
        if warnings:
            warnings[-1] += f"; the weights of {unit} {kept} are kept"
        return kept, warnings


def attach(
    trainer: Any,
    workspace: Path,
    *,
    title: str,
    watch: Watch,
    settings: TrainSettings,
    chosen_tokens: float,
    checkpoint: Path | None,
) -> AttachedCallbacks:
    """Give `trainer` our callbacks.

    Args:
        trainer: A Trainer of transformers.
        workspace: Where weights are put aside.
        title: Title of the progress bar.
        watch: How the run is watched.
        settings: The limits.
        chosen_tokens: Mean number of trained tokens of a chosen side; 0: nothing is preferred.
        checkpoint: Where the run goes on from.

    Raises:
        SettingsError: The weights are spread over devices, and what is asked for needs them whole.
    """
    set_callbacks(
        trainer,
        ProgressBar(title, trainer, enabled=watch.progress),
        WriteMetrics(workspace),
        guards.NumbersGuard(settings.grad_norm_limit),
    )
    spread.check_spread(trainer, settings, scored=watch.on_evaluate is not None)
    keeper = guard = None
    if watch.on_evaluate is not None:
        keeper = KeepBest(
            watch.on_evaluate, workspace, trainer, every=watch.every, patience=watch.patience
        )
        trainer.add_callback(keeper)
        if checkpoint is not None:
            state = read_object(
                checkpoint / "trainer_state.json", remedy=f"delete {checkpoint} to go on without it"
            )
            # A run that was not scored before is scored from here on.
            if (kept := state["stateful_callbacks"].get("KeepBest")) is not None:
                keeper.restore(**kept["attributes"])
    limit = getattr(settings, "chosen_drop_limit", 0.0)
    if limit and chosen_tokens:
        guard = guards.ChosenGuard(
            workspace,
            limit=limit,
            beta=getattr(settings, "beta", 1.0),
            tokens=chosen_tokens,
            keep=keeper is None and not spread.is_spread(trainer),
        )
        trainer.add_callback(guard)
    # Last, so that the marker comes after whatever the others write.
    trainer.add_callback(MarkComplete())
    trainer.add_callback(StopWhenDone(trainer))
    return AttachedCallbacks(keeper, guard)


def set_callbacks(trainer: Any, *callbacks: TrainerCallback) -> None:
    """Replace the callbacks that print by ours."""
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    for callback in callbacks:
        trainer.add_callback(callback)


class AlreadyTrainedError(EtoGymError):
    """A run was resumed from its last step; there is nothing left to train."""


class StopWhenDone(TrainerCallback):
    """Leaves a run that is resumed from its last step; the Trainer would take one more.

    The last step is also the one at which another callback, before this one, says that it is.
    """

    def __init__(self, trainer: HasProgress) -> None:
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Stop before the first step where all are done.

        Raises:
            AlreadyTrainedError: All are done; the model is loaded.
        """
        done, total = self._trainer.progress()
        if done >= total or state.global_step >= state.max_steps:
            raise AlreadyTrainedError(f"all {total} {self._trainer.unit}s are done")
        if control.should_training_stop:
            raise AlreadyTrainedError(f"stopped at {self._trainer.unit} {done}")


def checkpoint_folder(args: TrainingArguments, state: TrainerState) -> Path:
    """Return the folder of the checkpoint that is written at this step, or was read."""
    return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"


class MarkComplete(TrainerCallback):
    """Marks a checkpoint, by the digests of its files, once all of them are on disk."""

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Write the marker, when every process has written its part."""
        PartialState().wait_for_everyone()
        if not state.is_world_process_zero:
            return
        folder = checkpoint_folder(args, state)
        for path in folder.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        write_digests(folder / COMPLETE)


class ProgressBar(TrainerCallback):
    """Shows how far the trainer is, with the last loss and the tokens per second, on stderr."""

    def __init__(self, title: str, trainer: HasProgress, *, enabled: bool) -> None:
        self._title = title
        self._trainer = trainer
        self._enabled = enabled
        self._loss = ""
        self._shown: Progress | None = None
        self._begun = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Begin at the place from which training goes on."""
        shown = self._enabled and state.is_world_process_zero
        done, total = self._trainer.progress()
        self._begun = time.monotonic()
        self._shown = Progress(
            self._title if shown else None, total=total, done=done, unit=self._trainer.unit
        )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Advance."""
        self._tell()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Show the loss, and the success of what was played."""
        shown = {name: logs[name] for name in ("success", "loss") if logs and name in logs}
        if "loss" in shown:
            self._loss = ", ".join(f"{name} {value:.3f}" for name, value in shown.items())
            self._tell()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """End."""
        if self._shown is not None:
            self._shown.close()

    def _tell(self) -> None:
        if self._shown is None:
            return
        seconds = max(time.monotonic() - self._begun, 1e-9)
        speed = f"{getattr(self._trainer, 'tokens_seen', 0) / seconds:,.0f} tokens/s"
        self._shown.update(
            self._trainer.progress()[0], ", ".join(part for part in (self._loss, speed) if part)
        )


def in_order(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the metrics of a step in an order that a checkpoint, which sorts them, cannot change.

    First those that every method has, then the others by name.
    """
    first = [name for name in _FIRST if name in entry]
    return {name: entry[name] for name in (*first, *sorted(entry.keys() - set(first)))}


class WriteMetrics(TrainerCallback):
    """Writes the metrics of each logged step to a file as soon as there are any."""

    def __init__(self, workspace: Path) -> None:
        self._file = JsonlFile(workspace / METRICS_FILE)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Begin anew with what a checkpoint holds: later steps are taken again."""
        if state.is_world_process_zero:
            self._file.path.unlink(missing_ok=True)
            for entry in state.log_history:
                self._add(entry)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Add what was logged last."""
        if state.is_world_process_zero and state.log_history:
            self._add(state.log_history[-1])

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Close the file."""
        self._file.close()

    def _add(self, entry: dict[str, Any]) -> None:
        if "loss" in entry:
            self._file.append(strict(in_order(entry)))
