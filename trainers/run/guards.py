"""Guard callbacks: end a run at NaN, at exploding gradients, at a collapsing policy."""

from __future__ import annotations

import logging
import math
import statistics
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from eto_gym.trainers.errors import TrainingError
from eto_gym.trainers.model.weights import load_weights, readable, save_weights

logger = logging.getLogger(__name__)


class NumbersGuard(TrainerCallback):
    """Stops with an error at the first step whose loss or gradient is no number, or explodes.

    It runs before a checkpoint is written, so no checkpoint holds the damage.
    """

    def __init__(self, grad_norm_limit: float) -> None:
        """Prepare.

        Args:
            grad_norm_limit: Largest gradient norm, as a multiple of max(1, median so far); 0: any.
        """
        self._limit = grad_norm_limit

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Have the values reported, and so checked, before each checkpoint."""
        control.should_log |= control.should_save

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Have the values reported before the checkpoint of an epoch too."""
        control.should_log |= control.should_save

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Check the reported values.

        Raises:
            TrainingError: One of them is not finite, or the gradient exploded.
        """
        for name in ("loss", "grad_norm"):
            value = (logs or {}).get(name, 0.0)
            if not math.isfinite(value):
                raise TrainingError(
                    f"step {state.global_step}: {name} is {value}. Lower the learning rate, or "
                    "look for broken data or a precision that is too low; the last checkpoint is "
                    "from before this step."
                )
        norm = (logs or {}).get("grad_norm")
        past = [e["grad_norm"] for e in state.log_history if "grad_norm" in e]
        past = past[:-1]  # the last entry is this one
        if self._limit and norm is not None and past:
            most = self._limit * max(1.0, statistics.median(past))
            if norm > most:
                raise TrainingError(
                    f"step {state.global_step}: the gradient norm exploded to {norm:.3g}; until "
                    f"then its median was {statistics.median(past):.3g}, and more than {most:.3g} "
                    "is taken for divergence (grad_norm_limit). Lower the learning rate."
                )


class ChosenGuard(TrainerCallback):
    """Stops preference training when the chosen sides become improbable, and keeps good weights.

    A preference loss is content as long as rejected sides fall faster than chosen ones. A policy
    that lost both says neither, although the loss is low and the reward accuracy near 1.

    The drop is measured in nats per trained token of the chosen sides, against the reference, as
    the mean of the last few reported steps. The weights that it began with are kept, and those of
    every checkpoint at which the drop was within half of the limit.
    """

    FILE = "guarded.safetensors"
    WINDOW = 3
    """Reported steps over which the drop is averaged."""

    def __init__(
        self, workspace: Path, *, limit: float, beta: float, tokens: float, keep: bool
    ) -> None:
        """Prepare.

        Args:
            workspace: Where the kept weights lie.
            limit: Largest drop, in nats per token.
            beta: Scale of the reported rewards.
            tokens: Mean number of trained tokens of a chosen side.
            keep: Keep weights; False where something else does.
        """
        self._file = workspace / self.FILE
        self._limit = limit
        self._scale = beta * tokens
        self._keep = keep
        self.kept_step = 0
        self.reason = ""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any
    ) -> None:
        """Keep the weights that training starts from; stop where a checkpoint is of the end.

        Sound weights of a checkpoint take the place of kept ones that cannot be read.
        """
        if self._keep and state.global_step == 0:
            self._save(state, kw["model"])
        elif self._keep and self._drop(state) <= self._limit / 2 and not readable(self._file):
            logger.warning("%s cannot be read: the weights of the checkpoint are kept", self._file)
            self._save(state, kw["model"])
        self._judge(state, control)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Stop where the chosen sides have fallen too far."""
        self._judge(state, control)

    def _judge(self, state: TrainerState, control: TrainerControl) -> None:
        drop = self._drop(state)
        if drop > self._limit and not self.reason:
            self.reason = (
                f"stopped at step {state.global_step}: the chosen sides lost {drop:.3g} nats per "
                f"token against the reference, and more than {self._limit:g} is taken for collapse "
                "(chosen_drop_limit). Lower the learning rate, or set sft_weight"
            )
            control.should_training_stop = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any
    ) -> None:
        """Keep the weights while they are sound."""
        if self._keep and self._drop(state) <= self._limit / 2:
            self._save(state, kw["model"])

    def load_kept(self, model: Any) -> None:
        """Put the kept weights into `model`."""
        self.kept_step = int(load_weights(model, self._file)["step"])

    def _save(self, state: TrainerState, model: Any) -> None:
        if state.is_world_process_zero:
            save_weights(model, self._file, {"step": str(state.global_step)})

    def _drop(self, state: TrainerState) -> float:
        rewards = [e["rewards/chosen"] for e in state.log_history if "rewards/chosen" in e]
        last = rewards[-self.WINDOW :]
        return -sum(last) / len(last) / self._scale if last else 0.0
