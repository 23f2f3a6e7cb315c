"""Scores a model while it is trained, and keeps the weights that did best."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from eto_gym.trainers.errors import TrainingError
from eto_gym.trainers.model.scoring import without_dropout
from eto_gym.trainers.model.weights import load_weights, readable, save_weights
from eto_gym.trainers.run.watch import Evaluate

logger = logging.getLogger(__name__)


class HasProgress(Protocol):
    """How far a training is, in what it is counted in: mostly optimizer steps."""

    unit: str

    def progress(self) -> tuple[int, int]:
        """Return how many units are done, and how many there are."""


class KeepBest(TrainerCallback, ExportableState):
    """Scores the model as it trains, keeps the best weights, and stops when nothing improves.

    The score is taken before the first step too, so that training which only does harm ends with
    the weights that it began with. The torch generators are left as they were.
    """

    FILE = "best-{}.safetensors"
    """Of each step's weights. A run may go on from a checkpoint whose best step is an older one,
    and what it scores then need not come out as before: not on a GPU, and not where replies are
    sampled. So the weights that the last two checkpoints name are kept too."""

    def __init__(
        self,
        evaluate: Evaluate,
        workspace: Path,
        trainer: HasProgress,
        *,
        every: int,
        patience: int,
    ) -> None:
        """Prepare.

        Args:
            evaluate: Called with the step and the model, in evaluation mode and without gradients.
            workspace: Where the best weights are kept.
            trainer: What "step" means here.
            every: Steps between two scores; 0: at the end of each epoch.
            patience: Stop after this many scores in a row without a new best; 0: never.
        """
        self._evaluate = evaluate
        self._folder = workspace
        self._trainer = trainer
        self._every = every
        self._patience = patience
        self._scored: list[tuple[int, float, float]] = []
        """Step, score, and what tells equal scores apart."""
        self._named: list[int] = []
        """The best steps at the last two checkpoints."""
        self.reason = ""

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        scores = [list(item) for item in self._scored]
        return {"args": {}, "attributes": {"scores": scores, "named": list(self._named)}}

    @property
    def unit(self) -> str:
        """What its steps are."""
        return self._trainer.unit

    @property
    def scores(self) -> list[tuple[int, float]]:
        """The steps and their scores, in order."""
        return [(step, score) for step, score, _ in self._scored]

    @property
    def best(self) -> tuple[int, float] | None:
        """The step and score of the best weights; the earliest among equals.

        Equal scores are told apart by the second number that was returned with them, if any.
        """
        best = max(self._scored, key=lambda item: (*item[1:], -item[0]), default=None)
        return None if best is None else best[:2]

    def restore(self, scores: list[list[float]], named: Sequence[int] = ()) -> None:
        """Go on from what a checkpoint keeps; without the weights that it names, begin anew."""
        # A checkpoint of an earlier version has no second number.
        self._scored = [
            (int(step), float(score), float(tie[0]) if tie else 0.0) for step, score, *tie in scores
        ]
        best = self.best
        if best is not None and not readable(self._weights(best[0])):
            logger.warning(
                "%s, with the best weights so far, cannot be read: the scores begin anew",
                self._weights(best[0]),
            )
            self._scored = []
        self._named = [*named, *([best[0]] if best else [])][-2:]

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any
    ) -> None:
        """Score the weights that training starts from, or goes on from at the end of an epoch.

        A checkpoint of every so many steps is written before the epoch that ends with it is scored.
        """
        # transformers fails to save a callback that the checkpoint gone on from has not.
        kept: Any = state.stateful_callbacks
        kept.setdefault(type(self).__name__, self.state())
        ended = not self._every and bool(state.epoch) and float(state.epoch).is_integer()
        if not self.scores or ended:
            self._score(state, control, kw["model"])
        if state.global_step:  # the checkpoint may be of the step at which the run had stopped
            self._judge(control)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any
    ) -> None:
        """Score every so many steps."""
        if self._every and self._now % self._every == 0:
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
        if self.scores[-1][0] != self._now:
            self._score(state, control, kw["model"])

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any
    ) -> None:
        """Note what this checkpoint names, and forget the one before the last."""
        self._named = [*self._named, *([self.best[0]] if self.best else [])][-2:]

    def load_best(self, model: Any) -> None:
        """Put the best weights into `model`."""
        assert self.best is not None  # scored before the first step
        load_weights(model, self._weights(self.best[0]))

    def _weights(self, step: int) -> Path:
        return self._folder / self.FILE.format(step)

    @property
    def _now(self) -> int:
        return self._trainer.progress()[0]

    def _score(self, state: TrainerState, control: TrainerControl, model: Any) -> None:
        """Score on the first process; the others wait for its verdict."""
        now = self._now
        if self.scores and self.scores[-1][0] == now:
            return
        verdict = [0.0, 0.0]
        if state.is_world_process_zero:
            with torch.random.fork_rng(), torch.no_grad(), without_dropout(model):
                found = self._evaluate(now, model)
            verdict = [*map(float, found if isinstance(found, tuple) else (found, 0.0))]
            if not all(map(math.isfinite, verdict)):  # nothing is above or below NaN
                raise TrainingError(
                    f"{self._trainer.unit} {now}: expected on_evaluate to return finite numbers, "
                    f"got {found!r}; the last checkpoint is from before this score"
                )
        score, tie = broadcast_object_list(verdict)
        self._scored.append((now, score, tie))
        best = self.best
        if state.is_world_process_zero and best is not None and best[0] == now:
            save_weights(model, self._weights(now))
            wanted = {self._weights(step) for step in (now, *self._named)}
            for path in set(self._folder.glob(self.FILE.format("*"))) - wanted:
                path.unlink()
        self._judge(control)

    def _judge(self, control: TrainerControl) -> None:
        """Stop where patience has run out."""
        best = self.best
        since = sum(step > best[0] for step, _ in self.scores) if best else 0
        if self._patience and since >= self._patience and not self.reason:
            self.reason = (
                f"stopped at {self._trainer.unit} {self._now}: the score did not rise above "
                f"{best[1] if best else 0:.3g} in the last {since} evaluations"
            )
            control.should_training_stop = True
