"""Mixture training: whole episodes and single steps as preferences, and the experts imitated.

Source: Xiong et al., "Watch Every Step! LLM Agent Learning via Iterative Step-Level Process
Refinement" (IPR), EMNLP 2024 (https://arxiv.org/abs/2406.11176): outcome DPO, step DPO and SFT in
one loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Unpack

from eto_gym.errors import DataError
from eto_gym.trainers.data.encoding import PairRow, TokenReport, encode_pairs
from eto_gym.trainers.data.pairing import PairingSettings
from eto_gym.trainers.data.steps import StepSettings
from eto_gym.trainers.loops.run_folder import Stage
from eto_gym.trainers.loops.stage_data import load_pairs
from eto_gym.trainers.loops.step_loop import StepLoop
from eto_gym.trainers.methods.dpo import DPOSettings
from eto_gym.trainers.methods.sft import SFTSettings
from eto_gym.trainers.run.job import DataArguments, DataJob, prepared
from eto_gym.trainers.run.training import TrainReport, train
from eto_gym.trainers.settings.base import SettingsError, option
from eto_gym.trainers.settings.loops import (
    ControlSettings,
    ExpertSettings,
    ExplorationSettings,
    WorldSettings,
)
from eto_gym.trainers.settings.presets import PRESETS as ETO_PRESETS
from eto_gym.trainers.settings.presets import UNTRIED, narrowed, sized, sourced
from eto_gym.trajectories.pairs import PreferencePair


@dataclass(frozen=True, kw_only=True)
class MixtureSettings(DPOSettings):
    """Settings of mixture training: the weighted sum of three mean losses."""

    learning_rate: float = option(1e-6, "peak learning rate", paper="3e-6 in IPR's script")
    outcome_weight: float = option(
        1.0, "weight of the mean preference loss of whole episodes", paper="1 in IPR"
    )
    step_weight: float = option(
        1.0, "weight of the mean preference loss of steps", paper="1 in IPR"
    )
    sft_weight: float = option(
        1.0,
        "weight of the mean negative log-likelihood per token of the chosen whole episodes",
        paper="1 in IPR",
    )

    def __post_init__(self) -> None:
        """Reject values that cannot work."""
        super().__post_init__()
        for name in ("outcome_weight", "step_weight"):
            if getattr(self, name) < 0:
                raise SettingsError(f"expected {name} >= 0, got {getattr(self, name)}")
        if not self.outcome_weight + self.step_weight:
            raise SettingsError("expected outcome_weight > 0 or step_weight > 0")


def run_mixture(
    settings: MixtureSettings,
    outcomes: Sequence[PreferencePair],
    steps: Sequence[PreferencePair],
    **arguments: Unpack[DataArguments],
) -> TrainReport:
    """Train a model on pairs of whole episodes and of steps at once, with itself as the reference.

    A batch is drawn from both kinds of pairs. Each pair's loss is weighted so that an epoch's mean
    is `outcome_weight` times the mean over the whole episodes plus `step_weight` times the mean
    over the steps, however many there are of each.

    Args:
        settings: How to train.
        outcomes: Pairs of whole episodes.
        steps: Pairs of steps; their prompts end where the sides part.
        arguments: `model` and `output`; `codec`, `resume`, `watch`: see `DataArguments`.

    Raises:
        DataError: One kind of pairs is missing though it has a weight, or the data or the folders
            cannot be used.
    """
    for name, pairs, weight in (
        ("whole episodes", outcomes, settings.outcome_weight + settings.sft_weight),
        ("steps", steps, settings.step_weight),
    ):
        if weight and not pairs:
            raise DataError(f"there is no pair of {name}: find some, or set their weight to 0")
    job = DataJob(**arguments)
    with prepared(settings, job) as (tokenizer, codec):
        from eto_gym.trainers.methods.mixture_trainer import MixtureTrainer

        rows: list[list[PairRow]] = []
        data = TokenReport()
        for pairs, weight in (
            (outcomes, settings.outcome_weight + settings.sft_weight),
            (steps, settings.step_weight),
        ):
            encoded: list[PairRow] = []
            if weight:
                encoded, report = encode_pairs(
                    codec, pairs, max_length=settings.max_length, truncation=settings.truncation
                )
                data.include(report)
            rows.append(encoded)

        def build(loaded: Any, workspace: Path) -> MixtureTrainer:
            return MixtureTrainer(
                settings,
                model=loaded,
                outcomes=rows[0],
                steps=rows[1],
                tokenizer=tokenizer,
                workspace=workspace,
            )

        return train(
            "mixture",
            settings,
            rows[0] + rows[1],
            data,
            build=build,
            tokenizer=tokenizer,
            job=job,
            plan={"outcomes": len(rows[0])},
        )


@dataclass(frozen=True, kw_only=True)
class MixtureLoopSettings(WorldSettings, ExpertSettings, ExplorationSettings, ControlSettings):
    """What one run of mixture training does."""

    sft: SFTSettings = field(default_factory=SFTSettings)
    pairing: PairingSettings = field(default_factory=PairingSettings)
    steps: StepSettings = field(default_factory=StepSettings)
    step_tasks: int = option(0, "demonstrated tasks whose steps are explored; 0: all")
    mixture: MixtureSettings = field(default_factory=MixtureSettings)


PRESETS = {
    name: {**values, "mixture": ETO_PRESETS[name]["dpo"]}
    for name, values in narrowed(MixtureLoopSettings).items()
}
"""Name of a preset -> the settings in which it differs from the defaults; those of ETO."""
PRESETS["quickstart"].update(sourced(UNTRIED, step_tasks=sized(200, 15, 15)))


class MixtureLoop(StepLoop[MixtureLoopSettings]):
    """One run of mixture training in a run folder."""

    method = "mixture"

    def _run_stages(self) -> None:
        s = self.settings
        _, experts, current = first = self._demonstrate(s, s.sft)
        for i in range(1, s.iterations + 1):
            explored = self._explore(f"explore-{i}", current, s, tasks=s.train_tasks)
            pairs = self._pair(f"pairs-{i}", s.pairing, experts, explored)
            steps = self._steps(f"steps-{i}", s.steps, current, experts, tasks=s.step_tasks)
            current = self._mix(f"mixture-{i}", current, pairs, steps)
            self._evaluate(f"mixture, iteration {i}", f"mixture-{i}", current)
        self._control(s, s.sft, first)

    def _mix(self, name: str, model: Stage, outcomes: Stage, steps: Stage) -> Stage:
        settings = self.settings.mixture

        def work(folder: Path) -> Any:
            report = run_mixture(
                settings,
                load_pairs(outcomes),
                load_pairs(steps),
                **self._arguments(folder, model, self._watch(model)),
            )
            return asdict(report)

        return self.folder.run(
            name, work, settings=self._watched(settings), inputs=(model, outcomes, steps)
        )
