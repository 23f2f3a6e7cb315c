"""GRPO and RLOO by TRL, on our environments: several episodes of a task are compared with another.

Sources: Shao et al., "DeepSeekMath", 2024 (https://arxiv.org/abs/2402.03300) for GRPO; Ahmadian et
al., "Back to Basics", 2024 (https://arxiv.org/abs/2402.14740) for RLOO.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Unpack

from eto_gym.trainers.loops.run_folder import Stage
from eto_gym.trainers.methods.ppo import EpisodePlayer, OnPolicyLoop, OnPolicySettings
from eto_gym.trainers.run.job import PlayArguments, PlayJob, prepared
from eto_gym.trainers.run.training import TrainReport
from eto_gym.trainers.settings.base import SettingsError, TrainSettings, option
from eto_gym.trainers.settings.presets import ALONE, LENGTH, UNTRIED, narrowed, sized, sourced

ALGORITHMS = ("grpo", "rloo")


@dataclass(frozen=True, kw_only=True)
class GroupSettings(TrainSettings):
    """Settings that GRPO and RLOO share. Episodes are sampled at temperature 1.

    The number of optimizer steps is `max_steps`; each plays `batch_size` fresh episodes.
    """

    learning_rate: float = option(1e-6, "peak learning rate; TRL's default for both methods")
    max_steps: int = option(200, "optimizer steps")
    batch_size: int = option(
        64, "episodes per optimizer step; a multiple of generations and micro_batch_size"
    )
    generations: int = option(8, "episodes of one task that are compared with each other")
    beta: float = option(
        0.0,
        "price of the divergence from the model that training started from; GRPO puts it into the "
        "loss, RLOO takes it off the rewards. 0: no second model in memory",
    )
    epsilon: float = option(0.2, "ratios to the policy that played count up to 1 +- this")
    schedule: str = option(
        "constant",
        "learning rate after the warm-up",
        choices=("cosine", "linear", "constant"),
    )

    def __post_init__(self) -> None:
        """Reject values that cannot work."""
        super().__post_init__()
        if self.max_steps < 1:
            raise SettingsError(f"expected max_steps >= 1, got {self.max_steps}")
        if self.generations < 2:
            raise SettingsError(
                f"episodes of a task are compared: expected generations >= 2, got "
                f"{self.generations}"
            )
        if self.batch_size % self.generations:
            raise SettingsError(
                f"expected batch_size ({self.batch_size}) to be a multiple of generations "
                f"({self.generations})"
            )
        if self.beta < 0 or self.epsilon <= 0:
            raise SettingsError("expected beta >= 0 and epsilon > 0")


def run_group(
    algorithm: str,
    settings: GroupSettings,
    player: EpisodePlayer,
    **arguments: Unpack[PlayArguments],
) -> TrainReport:
    """Train a model by GRPO or RLOO on the episodes that it plays.

    Args:
        algorithm: "grpo" or "rloo".
        settings: How to train.
        player: Plays the episodes with the model as it is.
        arguments: `model` and `output`; `plan`, `resume`, `watch`: see `PlayArguments`.

    Returns:
        The report. Its metrics have TRL's entries ("reward", "kl", "completions/mean_length", ...)
        and "success". Its `data` counts the episodes played since the last start, as `seconds` do.

    Raises:
        SettingsError: There is no such algorithm, or `beta` has a price on the divergence from an
            adapter that would be merged.
        DataError: The folders cannot be used, or an episode is longer than `max_length` and
            `truncation` is "refuse".
        MissingDependencyError: The installed TRL is not the version that this code was made for.
    """
    if algorithm not in ALGORITHMS:
        raise SettingsError(f"expected algorithm 'grpo' or 'rloo', got {algorithm!r}")
    job = PlayJob(**arguments)
    with prepared(settings, job) as (tokenizer, codec):
        from eto_gym.trainers.methods.group_trainer import train_group

        return train_group(algorithm, settings, player, job, tokenizer, codec)


@dataclass(frozen=True, kw_only=True)
class GroupLoopSettings(OnPolicySettings):
    """What one run does: SFT on the experts, then GRPO or RLOO from there."""

    group: GroupSettings = field(default_factory=GroupSettings)


PRESETS = narrowed(GroupLoopSettings, **sourced(ALONE, workers=1))
"""Name of a preset -> the settings in which it differs from the defaults; those of ETO."""
PRESETS["quickstart"]["group"] = sourced(
    UNTRIED,
    learning_rate=1e-4,
    max_steps=sized(100, 20, 20),
    batch_size=sized(64, 64, 32),
    micro_batch_size=16,
    max_length=LENGTH,
    truncation=sized("refuse", "cut", "cut"),
)


class _GroupLoop(OnPolicyLoop[GroupLoopSettings]):
    algorithm: ClassVar[str]

    def _run_stages(self) -> None:
        s = self.settings
        learnt = self._learn(self._demonstrate(s, s.sft).sft)
        self._evaluate(self.algorithm.upper(), self.algorithm, learnt)

    def _learn(self, start: Stage) -> Stage:
        s, plan = self.settings, self._play_plan()

        def work(folder: Path) -> Any:
            report = run_group(
                self.algorithm,
                s.group,
                self._player(s.group.batch_size),
                plan=plan,
                **self._arguments(folder, start, self._watch(start)),
            )
            return asdict(report)

        settings = {"group": self._watched(s.group), **plan}
        return self.folder.run(self.algorithm, work, settings=settings, inputs=(start,))


class GRPOLoop(_GroupLoop):
    """One run of GRPO in a run folder."""

    method = algorithm = "grpo"


class RLOOLoop(_GroupLoop):
    """One run of RLOO in a run folder."""

    method = algorithm = "rloo"
