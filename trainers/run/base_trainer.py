"""The base trainer of all methods: arguments, optimizer, batches, checkpoints, saving."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerState, TrainingArguments

from eto_gym.agents.memory import return_freed_memory
from eto_gym.errors import DataError
from eto_gym.files import DIGESTS_FILE, changed_since, owned, read_object, write_json
from eto_gym.trainers.data.batching import BucketSampler, FillerDataset, collate_with_fillers
from eto_gym.trainers.model.cpu import alone_on_cpu, tidy_in_passing
from eto_gym.trainers.model.lean import keep_less
from eto_gym.trainers.model.models import REPORT_FILE, push_model, uses_bf16, write_model
from eto_gym.trainers.model.optimizers import build_optimizer, warmup_schedule
from eto_gym.trainers.model.recompute import recompute_cheap
from eto_gym.trainers.model.sharding import check_precision, keep_precise, load_whole, whole_weights
from eto_gym.trainers.run.callbacks import COMPLETE, AlreadyTrainedError, in_order
from eto_gym.trainers.settings.base import SettingsError, TrainSettings, deciding

logger = logging.getLogger(__name__)

CHECKPOINTING = (
    "activation_checkpointing"
    if "activation_checkpointing" in {field.name for field in dataclasses.fields(TrainingArguments)}
    else "gradient_checkpointing"
)
"""What `TrainingArguments` call it: the newer name from transformers 5.23 on, the other until 6."""


class BaseTrainer(Trainer):
    """transformers' Trainer with the optimizer and the schedule that our settings name."""

    _settings: TrainSettings
    model: Any
    unit = "step"

    def progress(self) -> tuple[int, int]:
        """Return how many units are done, and how many there are."""
        return self.state.global_step, self.state.max_steps

    def create_accelerator_and_postprocess(self) -> None:
        """Prepare for many devices; see `keep_precise`."""
        super().create_accelerator_and_postprocess()
        keep_precise(self.accelerator)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Build the optimizer."""
        if self.optimizer is None:
            self.optimizer = build_optimizer(model or self.model, self._settings)
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: Any = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Build the schedule of the learning rate."""
        if self.lr_scheduler is None:
            stepped: Any = optimizer or self.optimizer
            self.lr_scheduler = warmup_schedule(stepped, self._settings, num_training_steps)
        return self.lr_scheduler

    def _prepare_input(self, data: Any) -> Any:
        """Bring a batch to the device as it is; for DeepSpeed in bf16, scores would be rounded."""
        if isinstance(data, torch.Tensor):
            return data.to(self.args.device)
        return super()._prepare_input(data)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Pass a micro-batch forward and back; on a CPU, give back what an optimizer batch held."""
        loss = super().training_step(*args, **kwargs)
        if self.accelerator.sync_gradients and self.args.device.type == "cpu":
            return_freed_memory()
        return loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Do not estimate: it costs time at every step, and nothing reads it."""
        return 0


def training_arguments(settings: TrainSettings, workspace: Path) -> dict[str, Any]:
    """Return the keyword arguments of `TrainingArguments` that follow from our settings.

    Raises:
        SettingsError: A batch cannot be dealt out to passes and devices evenly.
    """
    world = _world()
    micro = micro_batch(settings)
    passes, rest = divmod(settings.batch_size, micro * world)
    if rest:
        raise SettingsError(
            f"expected batch_size ({settings.batch_size}) to be a multiple of micro_batch_size "
            f"times devices ({micro} x {world})"
        )
    save_steps = settings.save_every
    bf16 = uses_bf16(settings)
    check_precision(bf16=bf16)
    return {
        "output_dir": str(workspace),
        "learning_rate": settings.learning_rate,
        "num_train_epochs": settings.epochs,
        "max_steps": settings.max_steps or -1,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": passes,
        "max_grad_norm": settings.max_grad_norm,
        "seed": settings.seed,
        "bf16": bf16,
        # Every trained weight is used in every pass, fillers included.
        "ddp_find_unused_parameters": False,
        CHECKPOINTING: settings.gradient_checkpointing,
        "save_strategy": "steps" if save_steps else "epoch",
        "save_steps": save_steps or 500,
        # Two, so that the one before is still there while the marker of the last is not.
        "save_total_limit": 2,
        "logging_strategy": "steps",
        "logging_steps": settings.log_every,
        "logging_nan_inf_filter": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "remove_unused_columns": False,
        "report_to": [name.strip() for name in settings.report_to.split(",") if name.strip()],
        "disable_tqdm": True,
        "use_cpu": not torch.accelerator.is_available(),
    }


def spare_memory(model: Any, settings: TrainSettings) -> None:
    """Let a model keep less for the backward pass: on a CPU anyway, and as the settings say.

    For the first, devices have kernels; what spreads a model over processes watches over its
    layers; and of layers that are computed again as a whole, nothing is kept.

    Args:
        model: The model itself, not a wrapper of PEFT around it.
        settings: How it is trained.
    """
    if not torch.accelerator.is_available():
        tidy_in_passing(model)
    cheap = getattr(settings, "recompute_cheap", False)
    whole = not settings.lora_r and not settings.gradient_checkpointing
    known = alone_on_cpu() and whole and keep_less(model, products=cheap)
    if cheap and not known:
        recompute_cheap(model)


def micro_batch(settings: TrainSettings) -> int:
    """Return the rows of a forward pass: those set, or all that a process has of a batch."""
    return min(settings.micro_batch_size, max(1, settings.batch_size // _world()))


def _world() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def bucket_sampler(
    lengths: list[int],
    settings: TrainSettings,
    *,
    rank: int = 0,
    world: int = 1,
    ranks: Sequence[int] | None = None,
    make: Callable[..., BucketSampler] = BucketSampler,
) -> BucketSampler:
    """Return what decides which rows are in each micro-batch of a process."""
    return make(
        lengths,
        batch_size=settings.batch_size,
        micro_batch_size=micro_batch(settings),
        seed=settings.seed,
        rank=rank,
        world=world,
        ranks=ranks,
    )


def bucket_loader(
    trainer: Any,
    lengths: list[int],
    settings: TrainSettings,
    *,
    ranks: Sequence[int] | None = None,
    make: Callable[..., BucketSampler] = BucketSampler,
) -> DataLoader[dict[str, torch.Tensor]]:
    """Build the training loader: rows of similar length together, the order set by the seed.

    With `ranks`, rows of an optimizer batch are neighbours in that order. Of several processes each
    gets its own micro-batches of every optimizer batch, so that together they see what one process
    sees.
    """
    rank, world = trainer.args.process_index, trainer.args.world_size
    sampler = bucket_sampler(lengths, settings, rank=rank, world=world, ranks=ranks, make=make)
    loader: DataLoader[dict[str, torch.Tensor]] = DataLoader(
        FillerDataset(trainer.train_dataset),
        batch_sampler=sampler,
        collate_fn=partial(collate_with_fillers, trainer.data_collator),
        pin_memory=trainer.args.dataloader_pin_memory,
    )
    # The sampler has dealt the batches already: the loader has only to bring them to the device.
    prepared: DataLoader[dict[str, torch.Tensor]] = prepare_data_loader(
        loader,
        device=trainer.args.device,
        num_processes=1,
        process_index=0,
        put_on_device=True,
    )
    return prepared


class Workspace:
    """The folder beside the output that holds checkpoints until the model is finished."""

    def __init__(self, output: Path, fingerprint: str, *, resume: bool, first: bool = True) -> None:
        """Open the folder, or empty it where the run does not resume.

        Checkpoints that are not whole, or not as they were written, are removed.

        Args:
            output: Where the finished model goes.
            fingerprint: Hash of all that decides the result of the run.
            resume: Keep what an earlier run with the same fingerprint left.
            first: Look into the checkpoints; of several processes one does.

        Raises:
            DataError: The folder belongs to a run with other data, settings or model.
        """
        self.path = _workspace_path(output)
        stamp = self.path / "fingerprint.json"
        if not resume:
            for left in self.path.glob("*"):  # the folder itself is this run's by now
                shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink()
        elif stamp.is_file() and _stamp(stamp) != fingerprint:
            raise DataError(
                f"{self.path} holds the checkpoints of a run with other data, settings or another "
                "model: it cannot be resumed with these. Discard it with --restart (in Python "
                "resume=False)."
            )
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(stamp, fingerprint)

        for _, folder in self._checkpoints():
            if not (folder / COMPLETE).is_file():
                shutil.rmtree(folder)  # its writing was cut short
            elif first and (name := changed_since(folder / COMPLETE)):
                logger.warning(
                    "%s is not as it was written (%s): going on without it", folder, name
                )
                shutil.rmtree(folder)

    def last_checkpoint(self) -> Path | None:
        """Return the last checkpoint; all that are there are whole."""
        return max(self._checkpoints(), default=(0, None))[1]

    def _checkpoints(self) -> list[tuple[int, Path]]:
        """Return the steps and folders of all checkpoints; what bears another name is none."""
        found = [(p.name.partition("-")[2], p) for p in self.path.glob("checkpoint-*")]
        return [(int(step), p) for step, p in found if step.isdecimal() and p.is_dir()]

    def remove(self) -> None:
        """Delete the folder: the run is finished."""
        shutil.rmtree(self.path, ignore_errors=True)


WAIT = timedelta(days=7)
"""How long a process waits for the others before it gives up.

The defaults of torch (30 minutes over gloo, 10 over NCCL) are for processes in step, and end a run
whose other processes wait while one plays on, scores the model, or uploads it. A process that died
is noticed without any limit: its connections end, and the launcher ends the others."""


def processes() -> PartialState:
    """Return the processes that train together; the first call joins them."""
    return PartialState(cpu=not torch.accelerator.is_available(), timeout=WAIT)


@contextlib.contextmanager
def open_workspace(output: Path, fingerprint: str, *, resume: bool) -> Iterator[Workspace]:
    """Open the workspace: of several processes the first prepares it, and the others follow.

    Raises:
        EtoGymError: Another run is training to the same output, or `Workspace` refuses.
    """
    state = processes()
    if not state.is_main_process:
        state.wait_for_everyone()
        yield Workspace(output, fingerprint, resume=True, first=False)
        return
    folder = _workspace_path(output)
    folder.mkdir(parents=True, exist_ok=True)
    with owned(folder):
        workspace = Workspace(output, fingerprint, resume=resume)
        state.wait_for_everyone()
        yield workspace


def discard_workspace(output: Path) -> None:
    """Remove what a run left that was killed between writing its model and cleaning up."""
    for left in (_workspace_path(output), output.with_name(f"{output.name}.replaced")):
        shutil.rmtree(left, ignore_errors=True)


def _workspace_path(output: Path) -> Path:
    return output.with_name(f"{output.name}.work")


REMEDY = "put it back, or train again with --restart (in Python resume=False)"


def finished_report(output: Path, fingerprint: str) -> dict[str, Any] | None:
    """Return the report of a finished run with this fingerprint at `output`, if there is one.

    Raises:
        DataError: Report or model are not as they were written.
    """
    try:
        report = read_object(output / REPORT_FILE, remedy=REMEDY)
    except FileNotFoundError:
        return None
    if report.get("fingerprint") != fingerprint:
        return None
    if (name := changed_since(output / DIGESTS_FILE)) is not None:
        raise DataError(f"{output / name} is not as it was written: {REMEDY}")
    return report


def _stamp(path: Path) -> Any:
    """Return the fingerprint that a workspace was made for; None where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return None


def mean_of_last(metrics: list[dict[str, Any]], name: str) -> float:
    """Return the mean of a metric over the last tenth of its entries, at least one.

    An entry that was read back from a file holds None for what was not a number.
    """
    values = [float("nan") if entry[name] is None else entry[name] for entry in metrics]
    last = values[-max(1, len(values) // 10) :]
    return sum(last) / len(last) if last else float("nan")


def metrics_of(state: TrainerState) -> list[dict[str, Any]]:
    """Return the entries that were logged at optimizer steps."""
    return [in_order(entry) for entry in state.log_history if "loss" in entry]


def fit(trainer: Any, checkpoint: Path | None) -> None:
    """Train, from a checkpoint where there is one; one from after the last step is only loaded."""
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except AlreadyTrainedError:
        trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)


def total(trainer: Any, count: int) -> int:
    """Sum a count over all processes."""
    value = torch.tensor(count, device=trainer.args.device)
    return int(trainer.accelerator.reduce(value, reduction="sum"))


def finish(
    trainer: Any,
    tokenizer: Any,
    output: Path,
    method: str,
    settings: TrainSettings,
    report: Any,
) -> None:
    """Write the finished model with its report; of several processes, the first does."""
    weights = whole_weights(trainer)
    load_whole()  # the first process merges adapters into a base alone
    if trainer.is_world_process_zero():
        model = trainer.accelerator.unwrap_model(trainer.model)
        write_finished(model, tokenizer, output, method, settings, report, weights=weights)
    trainer.accelerator.wait_for_everyone()


def write_finished(
    model: Any,
    tokenizer: Any,
    output: Path,
    method: str,
    settings: TrainSettings,
    report: Any,
    *,
    weights: dict[str, Any] | None = None,
) -> None:
    """Write a finished model with its report, and upload it where that is wanted."""
    told = {
        "method": method,
        "settings": dataclasses.asdict(settings),
        **dataclasses.asdict(report),
    }
    write_model(model, tokenizer, output, told, settings, weights=weights)
    if settings.push_to_hub:
        push_model(output, settings.push_to_hub, private=settings.hub_private)


def run_fingerprint(kind: str, settings: TrainSettings, data: str, model: str) -> str:
    """Return a hash of all that decides the result of a run."""
    text = json.dumps([kind, deciding(settings), data, model], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
