"""What SFT and DPO share around transformers' Trainer: arguments, callbacks, checkpoints."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
import tqdm
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState, PrinterCallback, ProgressCallback

from eto_gym.errors import DataError
from eto_gym.trainers.batching import BucketSampler
from eto_gym.trainers.encoding import TokenReport
from eto_gym.trainers.models import REPORT_FILE, uses_bf16, write_model
from eto_gym.trainers.options import SettingsError, TrainSettings

logger = logging.getLogger(__name__)

COMPLETE = "complete"
"""Empty file, written last into a checkpoint: without it, the checkpoint is not resumed from."""

ReportT = TypeVar("ReportT")

Evaluate = Callable[[int, Any], float]
"""Takes the optimizer step and the model, and returns a score: higher is better."""


def training_arguments(settings: TrainSettings, workspace: Path) -> dict[str, Any]:
    """Return the keyword arguments of `TrainingArguments` that follow from our settings."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    micro = min(settings.micro_batch_size, settings.batch_size)
    passes, rest = divmod(settings.batch_size, micro * world)
    if rest:
        raise SettingsError(
            f"expected batch_size ({settings.batch_size}) to be a multiple of micro_batch_size "
            f"times devices ({micro} x {world})"
        )
    save_steps = settings.save_every
    return {
        "output_dir": str(workspace),
        "learning_rate": settings.learning_rate,
        "num_train_epochs": settings.epochs,
        "max_steps": settings.max_steps or -1,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": passes,
        "max_grad_norm": settings.max_grad_norm,
        "seed": settings.seed,
        "bf16": uses_bf16(settings),
        "gradient_checkpointing": settings.gradient_checkpointing,
        "save_strategy": "steps" if save_steps else "epoch",
        "save_steps": save_steps or 500,
        # Two, so that the one before is still there while the marker of the last is not.
        "save_total_limit": 2,
        "logging_strategy": "steps",
        "logging_steps": settings.log_every,
        "logging_nan_inf_filter": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "remove_unused_columns": False,
        "report_to": [],
        "disable_tqdm": True,
    }


def bucket_loader(
    trainer: Any, lengths: list[int], settings: TrainSettings
) -> DataLoader[dict[str, torch.Tensor]]:
    """Build the training loader: rows of similar length together, the order set by the seed."""
    sampler = BucketSampler(
        lengths,
        batch_size=settings.batch_size,
        micro_batch_size=min(settings.micro_batch_size, settings.batch_size),
        seed=settings.seed,
    )
    loader: DataLoader[dict[str, torch.Tensor]] = DataLoader(
        trainer.train_dataset,
        batch_sampler=sampler,
        collate_fn=trainer.data_collator,
        pin_memory=trainer.args.dataloader_pin_memory,
    )
    prepared: DataLoader[dict[str, torch.Tensor]] = trainer.accelerator.prepare(loader)
    return prepared


def warmup_schedule(
    optimizer: torch.optim.Optimizer, settings: TrainSettings, steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Return the schedule: a linear rise, then what `settings.schedule` names.

    The first step already has a rate above zero, as the last one does: in a run of a dozen steps,
    each counts.
    """
    warmup = math.ceil(steps * settings.warmup_ratio)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = (step - warmup) / max(1, steps - warmup)
        if settings.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return max(0.0, 1 - done) if settings.schedule == "linear" else 1.0

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def set_callbacks(trainer: Any, *callbacks: TrainerCallback) -> None:
    """Replace the callbacks that print by ours."""
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    for callback in callbacks:
        trainer.add_callback(callback)


class MarkComplete(TrainerCallback):
    """Marks a checkpoint once all of its files are on disk."""

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Write the marker."""
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        for path in folder.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        (folder / COMPLETE).touch()


class ProgressBar(TrainerCallback):
    """Shows one bar over the optimizer steps, with the last loss, on stderr."""

    def __init__(self, title: str, *, enabled: bool) -> None:
        self._title = title
        self._enabled = enabled
        self._bar: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Open the bar at the step from which training goes on."""
        shown = self._enabled and state.is_world_process_zero
        self._bar = tqdm.tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc=self._title,
            unit="step",
            disable=None if shown else True,
            dynamic_ncols=True,
        )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Advance."""
        self._bar.update(state.global_step - self._bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Show the loss."""
        if self._bar is not None and logs and "loss" in logs:
            self._bar.set_postfix(loss=f"{logs['loss']:.3f}", refresh=False)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Close the bar."""
        self._bar.close()


class KeepBest(TrainerCallback, ExportableState):
    """Scores the model as it trains, keeps the best weights, and stops when nothing improves.

    The score is taken before the first step too, so that training which only does harm ends with
    the weights that it began with. The torch generators are left as they were.
    """

    FILE = "best.safetensors"

    def __init__(self, evaluate: Evaluate, workspace: Path, *, every: int, patience: int) -> None:
        """Prepare.

        Args:
            evaluate: Called with the step and the model, in evaluation mode and without gradients.
            workspace: Where the best weights are kept.
            every: Optimizer steps between two scores; 0: at the end of each epoch.
            patience: Stop after this many scores in a row without a new best; 0: never.
        """
        self._evaluate = evaluate
        self._file = workspace / self.FILE
        self._every = every
        self._patience = patience
        self.scores: list[tuple[int, float]] = []

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"args": {}, "attributes": {"scores": [list(item) for item in self.scores]}}

    @property
    def best(self) -> tuple[int, float] | None:
        """The step and score of the best weights; the earliest among equals."""
        return max(self.scores, key=lambda item: (item[1], -item[0]), default=None)

    def restore(self, scores: list[list[float]]) -> None:
        """Go on from the scores of a checkpoint."""
        self.scores = [(int(step), float(score)) for step, score in scores]

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any
    ) -> None:
        """Score the weights that training starts from."""
        if not self.scores:
            self._score(state, control, kw["model"])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any
    ) -> None:
        """Score every so many steps."""
        if self._every and state.global_step % self._every == 0:
            self._score(state, control, kw["model"])

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any
    ) -> None:
        """Score each epoch where no number of steps is set."""
        if not self._every:
            self._score(state, control, kw["model"])

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any
    ) -> None:
        """Score the last weights, unless that was just done."""
        if self.scores[-1][0] != state.global_step:
            self._score(state, control, kw["model"])

    def load_best(self, model: Any) -> None:
        """Put the best weights into `model`."""
        from safetensors.torch import load_file

        weights = load_file(str(self._file))
        for name, parameter in _trainable(model):
            parameter.data.copy_(weights[name])

    def _score(self, state: TrainerState, control: TrainerControl, model: Any) -> None:
        from safetensors.torch import save_file

        if self.scores and self.scores[-1][0] == state.global_step:
            return
        before = self.best
        training = model.training
        model.eval()
        with torch.random.fork_rng(), torch.no_grad():
            score = float(self._evaluate(state.global_step, model))
        model.train(training)
        self.scores.append((state.global_step, score))
        if before is None or score > before[1]:
            weights = {n: p.detach().cpu().contiguous() for n, p in _trainable(model)}
            partial = self._file.with_suffix(".partial")
            save_file(weights, str(partial))
            partial.replace(self._file)
        best = self.best
        since = sum(step > best[0] for step, _ in self.scores) if best else 0
        if self._patience and since >= self._patience:
            control.should_training_stop = True


def _trainable(model: Any) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


class Workspace:
    """The folder beside the output that holds checkpoints until the model is finished."""

    def __init__(self, output: Path, fingerprint: str, *, resume: bool) -> None:
        """Open the folder, or empty it where the run does not resume.

        Raises:
            DataError: The folder belongs to a run with other data, settings or model.
        """
        self.path = output.with_name(f"{output.name}.work")
        stamp = self.path / "fingerprint.json"
        if not resume:
            shutil.rmtree(self.path, ignore_errors=True)
        elif stamp.is_file() and json.loads(stamp.read_text()) != fingerprint:
            raise DataError(
                f"{self.path} holds the checkpoints of a run with other data, settings or another "
                "model: it cannot be resumed with these. Start without resume to discard it."
            )
        self.path.mkdir(parents=True, exist_ok=True)
        partial = stamp.with_suffix(".partial")
        partial.write_text(json.dumps(fingerprint), encoding="utf-8")
        partial.replace(stamp)

    def last_checkpoint(self) -> Path | None:
        """Return the last checkpoint that was written whole; remove those that were not."""
        whole: list[tuple[int, Path]] = []
        for folder in self.path.glob("checkpoint-*"):
            if (folder / COMPLETE).is_file():
                whole.append((int(folder.name.partition("-")[2]), folder))
            else:
                shutil.rmtree(folder)
        return max(whole)[1] if whole else None

    def remove(self) -> None:
        """Delete the folder: the run is finished."""
        shutil.rmtree(self.path, ignore_errors=True)


def finished_report(output: Path, fingerprint: str) -> dict[str, Any] | None:
    """Return the report of a finished run with this fingerprint at `output`, if there is one."""
    with contextlib.suppress(FileNotFoundError):
        report: dict[str, Any] = json.loads((output / REPORT_FILE).read_text(encoding="utf-8"))
        if report.get("fingerprint") == fingerprint:
            return report
    return None


def attach(
    trainer: Any,
    workspace: Path,
    *,
    title: str,
    progress: bool,
    on_evaluate: Evaluate | None,
    evaluate_every: int,
    patience: int,
    checkpoint: Path | None,
) -> KeepBest | None:
    """Give `trainer` our callbacks; return the one that keeps the best weights, where scored."""
    set_callbacks(trainer, ProgressBar(title, enabled=progress))
    keeper = None
    if on_evaluate is not None:
        keeper = KeepBest(on_evaluate, workspace, every=evaluate_every, patience=patience)
        trainer.add_callback(keeper)
        if checkpoint is not None:
            state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
            kept = state["stateful_callbacks"]["KeepBest"]
            keeper.restore(kept["attributes"]["scores"])
    # Last, so that the marker comes after whatever the others write.
    trainer.add_callback(MarkComplete())
    return keeper


def mean_of_last(metrics: list[dict[str, Any]], name: str) -> float:
    """Return the mean of a metric over the last tenth of its entries, at least one."""
    values = [entry[name] for entry in metrics]
    last = values[-max(1, len(values) // 10) :]
    return sum(last) / len(last) if last else float("nan")


def metrics_of(state: TrainerState, renames: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """Return the entries that were logged at optimizer steps, under our names."""
    renames = renames or {}
    return [
        {renames.get(key, key): value for key, value in entry.items()}
        for entry in state.log_history
        if "loss" in entry
    ]


def finish(
    trainer: Any,
    tokenizer: Any,
    output: Path,
    method: str,
    settings: TrainSettings,
    report: Any,
) -> None:
    """Write the finished model with its report; of several processes, the first does."""
    if trainer.is_world_process_zero():
        write_model(
            trainer.accelerator.unwrap_model(trainer.model),
            tokenizer,
            output,
            {
                "method": method,
                "settings": dataclasses.asdict(settings),
                **dataclasses.asdict(report),
            },
            settings,
        )
    trainer.accelerator.wait_for_everyone()


def report_from_json(kind: type[ReportT], data: dict[str, Any]) -> ReportT:
    """Rebuild the report of a finished run from its file."""
    names = {item.name for item in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values = {name: value for name, value in data.items() if name in names}
    values["data"] = TokenReport(**values["data"])
    values["best"] = tuple(values["best"]) if values["best"] else None
    values["scores"] = [tuple(item) for item in values["scores"]]
    return kind(**values)


def run_fingerprint(kind: str, settings: TrainSettings, data: str, model: str) -> str:
    """Return a hash of all that decides the result of a run."""
    text = json.dumps([kind, dataclasses.asdict(settings), data, model], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
