"""Supervised fine-tuning on the agent's turns of whole conversations."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eto_gym.trainers.encoding import Codec, TokenReport, encode_trajectories, fingerprint
from eto_gym.trainers.models import check_output, quiet_libraries
from eto_gym.trainers.options import TrainSettings, option
from eto_gym.trajectories import Trajectory

if TYPE_CHECKING:
    from eto_gym.trainers.callbacks import Evaluate


@dataclass(frozen=True, kw_only=True)
class SFTSettings(TrainSettings):
    """Settings of supervised fine-tuning; the defaults are the paper's."""

    train_on: str = option(
        "assistant",
        "'assistant': the turns marked for training; 'all': every token, which teaches a model "
        "from scratch the language of the world",
        paper="assistant",
        choices=("assistant", "all"),
    )


@dataclass(slots=True)
class SFTReport:
    """What a run of SFT did.

    Attributes:
        output: The model folder.
        steps: Optimizer steps.
        seconds: Wall time of training, without loading and saving; of the last process where a run
            was resumed.
        tokens_per_second: Tokens of the rows, padding not counted, over that time.
        final_loss: Mean negative log-likelihood per trained token in the last tenth of the steps.
        data: What tokenisation did.
        metrics: One entry per logged step: "step", "epoch", "loss", "grad_norm", "learning_rate".
        best: Step and score of the weights that were kept, where the run was scored.
        scores: Every step and score.
        fingerprint: Hash of data, settings and model.
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


def run_sft(
    settings: SFTSettings,
    trajectories: Sequence[Trajectory],
    *,
    model: str | Path,
    output: str | Path,
    codec: Codec | None = None,
    resume: bool = False,
    progress: bool = True,
    on_evaluate: Evaluate | None = None,
    evaluate_every: int = 0,
    patience: int = 0,
) -> SFTReport:
    """Fine-tune `model` on `trajectories` and write the result to `output`.

    Args:
        settings: How to train.
        trajectories: What to learn from.
        model: Folder or hub name of a causal language model, or folder of an adapter.
        output: Folder of the new model: safetensors, tokenizer, and the report as `training.json`.
            It appears only when it is complete.
        codec: Tokenises conversations; by default the model's own chat template does.
        resume: Go on from the last whole checkpoint of a killed run; a finished run is not
            repeated.
        progress: Show a bar on stderr, where that is a terminal.
        on_evaluate: Scores the model during training; the best weights are written in the end.
        evaluate_every: Optimizer steps between scores; 0: each epoch.
        patience: Stop after this many scores without a new best; 0: never.

    Raises:
        DataError: The data, or the folders, cannot be used; the message says why.
    """
    output = Path(output)
    check_output(output)
    with quiet_libraries():
        from eto_gym.trainers import callbacks, models, running
        from eto_gym.trainers.batching import Rows, collate_rows
        from eto_gym.trainers.sft_trainer import TurnSFTTrainer

        tokenizer = models.load_tokenizer(model)
        rows, data = encode_trajectories(
            codec or models.default_codec(tokenizer),
            trajectories,
            max_length=settings.max_length,
            truncation=settings.truncation,
            train_on=settings.train_on,
        )
        stamp = running.run_fingerprint(
            "sft", settings, fingerprint(rows), models.hash_model(model)
        )
        if resume and (done := running.finished_report(output, stamp)) is not None:
            return running.report_from_json(SFTReport, done)
        workspace = running.Workspace(output, stamp, resume=resume)
        checkpoint = workspace.last_checkpoint()
        trainer = TurnSFTTrainer(
            settings,
            model=models.load_model(model, settings),
            rows=Rows(rows),
            collate=partial(collate_rows, pad_id=tokenizer.pad_token_id),
            tokenizer=tokenizer,
            workspace=workspace.path,
        )
        keeper = callbacks.attach(
            trainer,
            workspace.path,
            title="SFT",
            progress=progress,
            on_evaluate=on_evaluate,
            evaluate_every=evaluate_every,
            patience=patience,
            checkpoint=checkpoint,
        )
        start = time.perf_counter()
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        seconds = time.perf_counter() - start
        if keeper is not None:
            keeper.load_best(trainer.model)
        metrics = running.metrics_of(trainer.state)
        report = SFTReport(
            output=str(output),
            steps=trainer.state.global_step,
            seconds=seconds,
            tokens_per_second=trainer.tokens_seen / seconds,
            final_loss=running.mean_of_last(metrics, "loss"),
            data=data,
            metrics=metrics,
            best=keeper.best if keeper else None,
            scores=keeper.scores if keeper else [],
            fingerprint=stamp,
        )
        running.finish(trainer, tokenizer, output, "sft", settings, report)
        workspace.remove()
    return report
