"""Runs a training from start to report: resume, train, keep the best weights, write."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eto_gym.agents.models.sizes import check_positions
from eto_gym.errors import DataError
from eto_gym.trainers.data.encoding import TokenPair, TokenReport, TokenRow, fingerprint
from eto_gym.trainers.run.watch import Watch
from eto_gym.trainers.settings.base import TrainSettings

if TYPE_CHECKING:
    from eto_gym.trainers.run.callbacks import AttachedCallbacks

__all__ = ["TrainReport", "Watch", "finished", "settle", "train"]

logger = logging.getLogger(__name__)

_SHORTER = "make them shorter by --max-length with --truncation cut, or take another model"


@dataclass(slots=True)
class TrainReport:
    """What a run of training did.

    Attributes:
        output: The model folder.
        steps: Optimizer steps.
        seconds: Wall time of training (with the reference scores of DPO, the play of methods that
            play, scores and checkpoints), without loading the model and saving it; of the last
            process where a run was resumed.
        tokens_per_second: Tokens of the rows, padding not counted, over that time.
        final_loss: Mean loss in the last tenth of the steps. For SFT that is the negative
            log-likelihood per trained token.
        data: What tokenisation did.
        metrics: One entry per logged step: "step", "epoch", "loss", "grad_norm", "learning_rate",
            and what the method adds.
        best: Step and score of the weights that were kept, where the run was scored.
        scores: Every step and score.
        fingerprint: Hash of data, settings and model.
        kept_step: Step of the weights that were written, where these are not the last.
        warnings: Why a run was stopped early, in words.
        notes: What the method decided by itself. For SFT and DPO: "share_prefix" is "on" or "off",
            with the reason where that was not asked for. For DPO: "reference" is "computed" or
            "cached". With `precision="hardware"`: "precision" is "bf16" or "fp32".
    """

    output: str
    steps: int
    seconds: float
    tokens_per_second: float
    final_loss: float
    data: TokenReport
    metrics: list[dict[str, Any]]
    best: tuple[int, float] | None = None
    scores: list[tuple[int, float]] = field(default_factory=list)
    fingerprint: str = ""
    kept_step: int | None = None
    warnings: list[str] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TrainReport:
        """Rebuild the report of a finished run from its file."""
        names = {item.name for item in dataclasses.fields(cls)}
        values = {name: value for name, value in data.items() if name in names}
        if values["final_loss"] is None:  # JSON has no NaN
            values["final_loss"] = float("nan")
        values["data"] = TokenReport.from_json(values["data"])
        values["best"] = tuple(values["best"]) if values["best"] else None
        values["scores"] = [tuple(item) for item in values["scores"]]
        return cls(**values)


def train(
    method: str,
    settings: TrainSettings,
    rows: list[TokenRow] | list[TokenPair],
    data: TokenReport,
    *,
    build: Callable[[Any, Path], Any],
    tokenizer: Any,
    model: str | Path,
    output: str | Path,
    resume: bool = False,
    watch: Watch | None = None,
    plan: Any = None,
) -> TrainReport:
    """Train a model and write it to the output, unless `resume` finds that this was done.

    Args:
        method: Name of the method, recorded beside the model.
        settings: How to train.
        rows: The tokenised data.
        data: What tokenisation did.
        build: Makes the trainer from the loaded model and the folder for its checkpoints.
        tokenizer: The model's tokenizer.
        model: Where to start: a folder or hub name.
        output: Where to end: the folder of the new model.
        resume: Go on from the last whole checkpoint, or take a finished run for done.
        watch: Progress, scores, early stopping; by default a progress bar only.
        plan: What else decides the result (which rows are which; what a method that plays its own
            data plays), JSON-serialisable.
    """
    from eto_gym.trainers import errors as faults
    from eto_gym.trainers.model import models
    from eto_gym.trainers.model import sharding as spread
    from eto_gym.trainers.run import base_trainer, callbacks

    output = Path(output)
    content = fingerprint(rows)
    if plan is not None:
        content += json.dumps(plan, sort_keys=True)
    stamp = base_trainer.run_fingerprint(method, settings, content, models.hash_model(model))
    if (done := finished(output, stamp, resume=resume)) is not None:
        return done
    data.log(method)
    with base_trainer.open_workspace(output, stamp, resume=resume) as workspace:
        checkpoint = workspace.last_checkpoint()
        with faults.disk_errors(workspace.path, "a checkpoint"):
            spread.load_whole()
            loaded = models.load_for_training(model, settings)
            check_positions(loaded, data.longest, _SHORTER)
            start = time.perf_counter()
            trainer = build(loaded, workspace.path)
            watchers = callbacks.attach(
                trainer,
                workspace.path,
                title=method.upper(),
                watch=watch or Watch(),
                settings=settings,
                chosen_tokens=_chosen_tokens(rows),
                checkpoint=checkpoint,
            )
            base_trainer.fit(trainer, checkpoint)
        seconds = time.perf_counter() - start
        report = TrainReport(
            output=str(output),
            steps=trainer.state.global_step,
            seconds=seconds,
            tokens_per_second=base_trainer.total(trainer, trainer.tokens_seen) / seconds,
            final_loss=float("nan"),
            data=data,
            metrics=base_trainer.metrics_of(trainer.state),
            fingerprint=stamp,
            notes=getattr(trainer, "notes", {}) | _precision(settings),
        )
        settle(report, watchers, trainer.model, method)
        with faults.disk_errors(output, "the trained model"):
            base_trainer.finish(trainer, tokenizer, output, method, settings, report)
        if base_trainer.processes().is_main_process:
            workspace.remove()
    return report


def finished(output: Path, stamp: str, *, resume: bool) -> TrainReport | None:
    """Return the report of a run that is resumed though it is finished, if it is.

    What a process left that was killed between writing the model and cleaning up is removed.

    Raises:
        DataError: Its report is damaged.
    """
    from eto_gym.trainers.model.models import REPORT_FILE
    from eto_gym.trainers.run import base_trainer

    done = base_trainer.finished_report(output, stamp) if resume else None
    if done is None:
        return None
    if base_trainer.processes().is_main_process:
        base_trainer.discard_workspace(output)
    try:
        return TrainReport.from_json(done)
    except (TypeError, KeyError, ValueError, AttributeError) as err:
        raise DataError(
            f"{output / REPORT_FILE} is damaged ({err!r}): {base_trainer.REMEDY}"
        ) from err


def settle(report: TrainReport, watchers: AttachedCallbacks, model: Any, method: str) -> None:
    """Put the weights that are worth keeping into `model`, and complete the report with why."""
    from eto_gym.trainers.run import base_trainer

    if base_trainer.processes().is_main_process:
        report.kept_step, report.warnings = watchers.settle(model)
    for warning in report.warnings:
        logger.warning("%s: %s", method, warning)
    report.final_loss = base_trainer.mean_of_last(report.metrics, "loss")
    if watchers.keeper is not None:
        report.best, report.scores = watchers.keeper.best, watchers.keeper.scores


def _precision(settings: TrainSettings) -> dict[str, str]:
    """Return the note of the precision that was computed in, where the machine decided it."""
    from eto_gym.trainers.model.models import uses_bf16

    if settings.precision != "hardware":
        return {}
    return {"precision": "bf16" if uses_bf16(settings) else "fp32"}


def _chosen_tokens(rows: list[TokenRow] | list[TokenPair]) -> float:
    pairs = [row for row in rows if isinstance(row, TokenPair)]
    chosen = [sum(row.trained for row in pair.sides[0]) for pair in pairs if pair.sides[0]]
    return sum(chosen) / len(chosen) if chosen else 0.0
