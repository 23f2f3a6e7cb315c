"""Trajectory DPO: whole episodes as preferences, and only the agent's own tokens count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from eto_gym.trainers.data.encoding import encode_pairs
from eto_gym.trainers.run.job import DataArguments, DataJob, prepared
from eto_gym.trainers.run.training import TrainReport, train
from eto_gym.trainers.settings.base import SettingsError, SharingSettings, option
from eto_gym.trajectories.pairs import PreferencePair

LOSSES = ("sigmoid", "hinge", "ipo")


@dataclass(frozen=True, kw_only=True)
class DPOSettings(SharingSettings):
    """Settings of trajectory DPO; the defaults are the paper's."""

    learning_rate: float = option(
        1e-6, "peak learning rate; ten times too high destroys the policy", paper="1e-6"
    )
    batch_size: int = option(32, "pairs per optimizer step, over all devices", paper="32")
    micro_batch_size: int = option(
        2,
        "pairs per forward pass on one device; has no effect on the result, only on memory and "
        "speed. The number of passes per step follows from it",
    )
    schedule: str = option(
        "constant",
        "learning rate after the warm-up",
        paper="constant",
        choices=("cosine", "linear", "constant"),
    )
    warmup_ratio: float = option(
        0.1, "part of all steps over which the rate rises from 0", paper="0.1"
    )
    beta: float = option(
        0.1,
        "pull towards the reference model: higher stays closer",
        paper="0.1 (script: 0.1, 0.5 from iteration 2)",
    )
    loss: str = option(
        "sigmoid",
        "'sigmoid': DPO; 'hinge': SLiC; 'ipo': squared distance of the log-ratio to 1/(2 beta), "
        "which does not run away once a pair is ranked",
        paper="sigmoid",
        choices=LOSSES,
    )
    label_smoothing: float = option(
        0.0, "chance that a pair is ranked the wrong way round; for 'sigmoid' only", paper="0"
    )
    sft_weight: float = option(
        0.0,
        "weight of the mean negative log-likelihood per chosen token, added to the loss: keeps the "
        "chosen side from becoming unlikely",
        paper="0",
    )
    length_normalization: bool = option(
        False, "divide each side's log-ratio by its trained tokens; beta must then be larger"
    )
    chosen_drop_limit: float = option(
        0.2,
        "stop when chosen sides have lost more than this many nats per trained token against the "
        "reference, with a warning and the last sound weights; 0: never. Healthy runs stay within "
        "0.1 of it on either side, collapsing ones lose several",
    )
    precompute_reference: bool = option(
        True,
        "score the reference once before training: no second model in memory, half the time",
    )
    reference_cache: str = option(
        "auto",
        "folder that keeps the reference's scores, found again by a hash of the model's weights "
        "and the pairs, so that a run with other settings need not score them again; 'auto': "
        "`reference` beside downloaded data; 'none': only until this run is finished",
    )

    def __post_init__(self) -> None:
        """Reject values that cannot work."""
        super().__post_init__()
        if self.beta <= 0:
            raise SettingsError(f"expected beta > 0, got {self.beta}")
        if not 0 <= self.label_smoothing < 0.5:
            raise SettingsError(f"expected label_smoothing in 0..0.5, got {self.label_smoothing}")
        if self.label_smoothing and self.loss != "sigmoid":
            raise SettingsError("label_smoothing is for the sigmoid loss")
        if self.chosen_drop_limit < 0:
            raise SettingsError(f"expected chosen_drop_limit >= 0, got {self.chosen_drop_limit}")
        if self.sft_weight < 0:
            raise SettingsError(f"expected sft_weight >= 0, got {self.sft_weight}")


def run_dpo(
    settings: DPOSettings,
    pairs: Sequence[PreferencePair],
    **arguments: Unpack[DataArguments],
) -> TrainReport:
    """Train a model to prefer the chosen continuations, with itself as the reference.

    Args:
        settings: How to train.
        pairs: What to prefer to what.
        arguments: `model` and `output`; `codec`, `resume`, `watch`: see `DataArguments`.

    Returns:
        The report. Its metrics have, beside the usual ones, "rewards/chosen" and "rewards/rejected"
        (beta times the log-ratio to the reference), "rewards/margins" (their difference),
        "rewards/accuracies" (how often it is positive), "logps/chosen" and "logps/rejected" (summed
        over the trained tokens of a side).

    Raises:
        DataError: The data, or the folders, cannot be used; the message says why.
        MissingDependencyError: The installed TRL is not the version that this code was made for.
    """
    job = DataJob(**arguments)
    with prepared(settings, job) as (tokenizer, codec):
        from eto_gym.trainers.methods.dpo_trainer import TrajectoryDPOTrainer

        rows, data = encode_pairs(
            codec,
            pairs,
            max_length=settings.max_length,
            truncation=settings.truncation,
        )

        def build(loaded: Any, workspace: Path) -> TrajectoryDPOTrainer:
            return TrajectoryDPOTrainer(
                settings, model=loaded, rows=rows, tokenizer=tokenizer, workspace=workspace
            )

        return train("dpo", settings, rows, data, build=build, tokenizer=tokenizer, job=job)
