"""PPO on whole episodes: the paper's reinforcement-learning baseline.

Sources: Schulman et al., "Proximal Policy Optimization Algorithms", 2017
(https://arxiv.org/abs/1707.06347), with generalised advantage estimation
(https://arxiv.org/abs/1506.02438); as a baseline, the ETO paper (https://arxiv.org/abs/2403.02502).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar, Unpack

from eto_gym.agents.rollout.collect import RolloutSpec
from eto_gym.errors import EtoGymError
from eto_gym.history import FULL
from eto_gym.trainers.loops.loop import Loop
from eto_gym.trainers.loops.run_folder import Stage
from eto_gym.trainers.methods.sft import SFTSettings
from eto_gym.trainers.run.job import PlayArguments, PlayJob, prepared
from eto_gym.trainers.run.training import TrainReport
from eto_gym.trainers.settings.base import SettingsError, TrainSettings, option
from eto_gym.trainers.settings.loops import ExpertSettings, WorldSettings
from eto_gym.trainers.settings.presets import ALONE, LENGTH, UNTRIED, narrowed, sized, sourced
from eto_gym.trajectories import Trajectory

Play = Callable[[Any, Any, int, range], Sequence[Trajectory]]
"""Takes the model, its codec, the number of the round and which of its episodes to play, counted
from 0: of several processes each plays a part. Returns these episodes."""


@dataclass(frozen=True, kw_only=True)
class PPOSettings(TrainSettings):
    """Settings of PPO. A round plays episodes with the current policy, then learns from them.

    Episodes are sampled at temperature 1: the importance ratios hold for no other.
    """

    learning_rate: float = option(1e-6, "peak learning rate of the policy")
    value_learning_rate: float = option(
        1e-4, "learning rate of the value head; it is new, so it must learn faster than the rest"
    )
    rounds: int = option(100, "rounds of playing and learning")
    episodes: int = option(64, "episodes per round")
    epochs: float = option(2.0, "passes over the episodes of a round; a whole number")
    batch_size: int = option(32, "episodes per optimizer step")
    micro_batch_size: int = option(
        4,
        "episodes per forward pass; has no effect on the result, only on memory and speed",
    )
    truncation: str = option(
        "cut",
        "what happens to an episode over max_length: 'cut' removes whole turns from its end, and "
        "counts that; 'refuse' stops with an error",
        choices=("refuse", "cut"),
    )
    schedule: str = option(
        "constant",
        "learning rate after the warm-up",
        choices=("cosine", "linear", "constant"),
    )
    clip: float = option(0.2, "ratios to the policy that played count up to 1 +- this; PPO's value")
    value_clip: float = option(
        0.0, "values may move by this much from those of the round's start; 0: freely"
    )
    gamma: float = option(
        1.0, "discount per turn; 1, because episodes are short and end with their reward"
    )
    gae_lambda: float = option(
        0.95, "how far advantages look ahead before they trust the value head, per turn"
    )
    value_weight: float = option(0.5, "weight of the squared error of the value head")
    kl_weight: float = option(
        0.02,
        "price per nat by which a turn became likelier than under the model that training started "
        "from; taken off the turn's reward. 0: no reference is computed",
    )
    target_kl: float = option(
        0.1,
        "leave the remaining passes of a round out once the policy moved this many nats per token "
        "from the one that played; 0: never",
    )
    normalize_advantages: bool = option(
        True, "scale the advantages of a round to mean 0 and deviation 1"
    )
    save_every: int = option(
        10, "rounds between checkpoints that a killed run resumes from; 0: only after the last"
    )
    log_every: int = option(1, "rounds between two entries of the metrics, each of its own round")

    def __post_init__(self) -> None:
        """Reject values that cannot work."""
        super().__post_init__()
        for name in ("rounds", "episodes"):
            if getattr(self, name) < 1:
                raise SettingsError(f"expected {name} >= 1, got {getattr(self, name)}")
        if self.epochs != int(self.epochs) or self.epochs < 1:
            raise SettingsError(f"expected a whole number of epochs >= 1, got {self.epochs}")
        for name in ("gamma", "gae_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"expected {name} within 0..1, got {getattr(self, name)}")
        for name in ("value_clip", "value_weight", "kl_weight", "target_kl"):
            if getattr(self, name) < 0:
                raise SettingsError(f"expected {name} >= 0, got {getattr(self, name)}")
        if self.clip <= 0:
            raise SettingsError(f"expected clip > 0, got {self.clip}")
        if self.optimizer not in ("adamw", "adamw8bit", "paged_adamw8bit"):
            raise SettingsError("PPO takes many small noisy steps: use adamw, not muon")


def run_ppo(
    settings: PPOSettings,
    play: Play,
    **arguments: Unpack[PlayArguments],
) -> TrainReport:
    """Train a model on the rewards of the episodes that it plays.

    Args:
        settings: How to train.
        play: Plays the episodes of a round with the model as it is.
        arguments: `model`, which is also the reference of the KL price, and `output`; `plan`,
            `resume`, `watch`, which counts rounds: see `PlayArguments`.

    Returns:
        The report; its metrics have one entry per round: "epoch" (the round), "step" (optimizer
        steps so far), "success", "reward", "turns" of the episodes, "errors" (episodes that failed
        to run, which are not learnt from), "kl_reference" (nats per token between the player and
        the reference), and means over the round's steps: "loss" (policy), "value_loss", "kl" (nats
        per token that the round moved the policy), "clipped" (share of ratios outside the clip),
        "grad_norm". Scores and `kept_step` count rounds, `steps` counts optimizer steps.

    Raises:
        DataError: The folders cannot be used.
        SettingsError: The weights are spread over devices.
        EtoGymError: A round has no episode to learn from.
    """
    job = PlayJob(**arguments)
    with prepared(settings, job) as (tokenizer, codec):
        from eto_gym.trainers.methods.ppo_trainer import train_ppo

        return train_ppo(settings, play, job, tokenizer, codec)


@dataclass(frozen=True, kw_only=True)
class OnPolicySettings(WorldSettings, ExpertSettings):
    """What every loop needs whose model plays while it is trained: SFT first, then play."""

    explore_tasks: int = option(0, "tasks to learn from; 0: those that are demonstrated, or all")
    sft: SFTSettings = field(default_factory=SFTSettings)

    def __post_init__(self) -> None:
        """Reject values that cannot work."""
        super().__post_init__()
        if self.workers != 1:
            raise SettingsError("the model in training plays itself: expected workers 1")
        if self.history != FULL:
            raise SettingsError(
                "ppo, grpo and rloo train on whole conversations: expected history 'full', got "
                f"{self.history!r}"
            )


@dataclass(frozen=True, kw_only=True)
class PPOLoopSettings(OnPolicySettings):
    """What one run of the PPO baseline does: SFT on the experts, then PPO from there."""

    ppo: PPOSettings = field(default_factory=PPOSettings)


PRESETS = narrowed(PPOLoopSettings, **sourced(ALONE, workers=1))
PRESETS["quickstart"].update(
    sourced(UNTRIED + ": dev tasks cost less than the rounds between", dev_every=25)
)
PRESETS["quickstart"]["ppo"] = sourced(
    UNTRIED,
    learning_rate=1e-4,
    value_learning_rate=1e-3,
    rounds=sized(40, 10, 10),
    episodes=sized(128, 64, 32),
    max_length=LENGTH,
    truncation=sized("refuse", "cut", "cut"),
)
"""Name of a preset -> the settings in which it differs from the defaults; those of ETO."""


S = TypeVar("S", bound=OnPolicySettings)


class OnPolicyLoop(Loop[S]):
    """A loop whose model plays while it is trained."""

    def _play_plan(self) -> dict[str, Any]:
        """Return what decides the episodes that the model plays."""
        s = self.settings
        return {
            "env": s.env,
            "env_kwargs": s.env_kwargs(),
            "split": s.train_split,
            "tasks": s.explore_tasks or s.train_tasks,
            "seed": s.seed,
            "prompt_style": s.prompt_style,
            "max_new_tokens": s.max_new_tokens,
            "max_context": s.max_context,
        }

    def _player(self, episodes: int) -> EpisodePlayer:
        """Return what plays `episodes` episodes at a time, as `_play_plan` says."""
        s = self.settings
        return EpisodePlayer(
            self._spec(_no_policy, s.train_split),
            self._task_ids(s.train_split, s.explore_tasks or s.train_tasks),
            episodes=episodes,
            seed=s.seed,
            max_new_tokens=s.max_new_tokens,
            context=s.max_context,
        )


class PPOLoop(OnPolicyLoop[PPOLoopSettings]):
    """One run of the PPO baseline in a run folder."""

    method = "ppo"

    def _run_stages(self) -> None:
        s = self.settings
        self._evaluate("PPO", "ppo", self._ppo(self._demonstrate(s, s.sft).sft))

    def _ppo(self, start: Stage) -> Stage:
        s, plan = self.settings, self._play_plan()

        def work(folder: Path) -> Any:
            report = run_ppo(
                s.ppo,
                self._player(s.ppo.episodes),
                plan=plan,
                **self._arguments(folder, start, self._watch(start)),
            )
            return asdict(report)

        settings = {"ppo": self._watched(s.ppo), **plan}
        return self.folder.run("ppo", work, settings=settings, inputs=(start,))


def _no_policy() -> Any:
    raise EtoGymError("the policy is the model in training")


class EpisodePlayer:
    """Plays the episodes of a round in this process, with the very model that is being trained."""

    def __init__(
        self,
        spec: RolloutSpec,
        task_ids: Sequence[str],
        *,
        episodes: int,
        seed: int,
        max_new_tokens: int,
        context: int,
    ) -> None:
        """Prepare.

        Args:
            spec: The environments; its policy is not used.
            task_ids: Tasks to draw from: in shuffled order, each as often as the others.
            episodes: Episodes per round.
            seed: Seed of the order of tasks and of the sampling.
            max_new_tokens: Longest reply in tokens.
            context: Longest conversation in tokens.
        """
        self._spec = spec
        self.task_ids = task_ids
        self._episodes = episodes
        self._seed = seed
        self._options: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "context": context,
            "temperature": 1.0,
        }

    def __call__(self, model: Any, codec: Any, number: int, part: range) -> list[Trajectory]:
        """Play a part of round `number`; the number of an episode decides its task and seed."""
        first = number * self._episodes
        tasks = [self._task(first + i) for i in part]
        return self.play(model, codec, tasks, first + part.start)

    def play(self, model: Any, codec: Any, task_ids: Sequence[str], first: int) -> list[Trajectory]:
        """Play one episode of every task named, in order; `first` numbers the first of them."""
        from eto_gym.agents.models.local import LocalPolicy
        from eto_gym.agents.rollout.engine import Episode, Rollout, plan_episodes

        episodes = [
            Episode(task, i, plan_episodes([task], seed=self._seed + first + i)[0].seed)
            for i, task in enumerate(task_ids)
        ]
        rollout = Rollout(
            self._spec.make_env,
            LocalPolicy(model, codec, name=f"from-{first}", **self._options),
            slots=self._spec.slots,
            prompt_style=self._spec.prompt_style,
        )
        played = {trajectory.sample: trajectory for trajectory in rollout.play(episodes)}
        return [played[i] for i in range(len(episodes))]

    def _task(self, index: int) -> str:
        """Return the task at a place of the endless sequence of shuffled passes over all tasks."""
        import random

        turn, place = divmod(index, len(self.task_ids))
        order = list(self.task_ids)
        random.Random(f"{self._seed}:{turn}").shuffle(order)
        return order[place]
