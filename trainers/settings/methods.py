"""Settings of the training methods: SFT, trajectory DPO, mixture, PPO, GRPO and RLOO."""

from __future__ import annotations

from dataclasses import dataclass

from eto_gym.trainers.settings.base import SettingsError, SharingSettings, TrainSettings, option

LOSSES = ("sigmoid", "hinge", "ipo", "dpop", "dmpo", "kto", "simpo", "orpo")


def _refuse_mask(settings: TrainSettings) -> None:
    """Refuse what has no meaning for methods that learn from all that was sampled."""
    if settings.train_tokens:
        raise SettingsError(
            "train_tokens is for sft and dpo: what a model in training plays is as long as it is"
        )
    if settings.mask_thoughts:
        raise SettingsError("rewards are earned by thoughts too: mask_thoughts is for sft and dpo")


@dataclass(frozen=True, kw_only=True)
class SFTSettings(SharingSettings):
    """Settings of supervised fine-tuning; the defaults are the paper's."""

    train_on: str = option(
        "assistant",
        "'assistant': the turns marked for training; 'all': every token, which teaches a model "
        "from scratch the language of the world",
        paper="assistant",
        choices=("assistant", "all"),
    )
    recompute_cheap: bool = option(
        False,
        "recompute what is cheap in the backward pass, norms, casts and activation functions: "
        "saves less memory than gradient_checkpointing, and less time is lost. Where all weights "
        "are trained on a CPU these come again anyway: there, the wide products of gated networks",
        added=True,
    )

    def __post_init__(self) -> None:
        """Reject values that cannot work."""
        super().__post_init__()
        if self.recompute_cheap and self.gradient_checkpointing:
            raise SettingsError("gradient_checkpointing recomputes all: leave out recompute_cheap")


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
        "which does not run away once a pair is ranked; 'dpop': DPO that resists the fall of the "
        "chosen side; 'dmpo': earlier turns count more; 'kto': each side by itself, good or bad; "
        "'simpo' and 'orpo': per token, without a reference. docs/methods/preferences.md has the "
        "equations",
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
    positive_weight: float = option(
        50.0,
        "'dpop': price of each nat by which a chosen side fell below the reference, in the logit "
        "before beta; 50 is the method's value",
        added=True,
    )
    turn_discount: float = option(
        0.9,
        "'dmpo': turn t of T counts (1 - g^(T-t)) / (1 - g^T), g being this: the lower, the more "
        "all turns but the last count alike",
        added=True,
    )
    undesirable_weight: float = option(
        1.0,
        "'kto': weight of rejected sides; chosen ones have 1. 0: the number of chosen over that of "
        "rejected sides, so that both kinds weigh alike",
        added=True,
    )
    target_margin: float = option(
        0.5,
        "'simpo': by how much the scaled mean log-probabilities should differ; the method has 0.3 "
        "to 1.6, with beta 2 to 2.5",
        added=True,
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
        for name in ("sft_weight", "positive_weight", "undesirable_weight", "target_margin"):
            if getattr(self, name) < 0:
                raise SettingsError(f"expected {name} >= 0, got {getattr(self, name)}")
        if not 0 < self.turn_discount < 1:
            raise SettingsError(f"expected turn_discount within 0..1, got {self.turn_discount}")
        if self.length_normalization and self.loss in ("dmpo", "simpo", "orpo"):
            raise SettingsError(f"the loss {self.loss!r} normalizes by length already")
        if self.sft_weight and self.loss in ("dmpo", "orpo"):
            raise SettingsError(
                f"the loss {self.loss!r} takes no sft_weight: 'orpo' has the likelihood in it, and "
                "'dmpo' weighs turns"
            )


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
    group_weight: float = option(
        0.0, "weight of the mean preference loss of action groups, which `hpl` makes", added=True
    )
    curriculum: bool = option(
        False,
        "let action groups in by three phases of `epochs` passes each, short and clear ones first",
        added=True,
    )

    def __post_init__(self) -> None:
        """Reject values that cannot work."""
        super().__post_init__()
        for name in ("outcome_weight", "step_weight", "group_weight"):
            if getattr(self, name) < 0:
                raise SettingsError(f"expected {name} >= 0, got {getattr(self, name)}")
        if not self.outcome_weight + self.step_weight + self.group_weight:
            raise SettingsError("expected outcome_weight, step_weight or group_weight > 0")
        if self.curriculum and (self.epochs != int(self.epochs) or self.epochs < 1):
            raise SettingsError(
                f"a phase of the curriculum is a whole number of epochs >= 1, got {self.epochs}"
            )


@dataclass(frozen=True, kw_only=True)
class HPLSettings(MixtureSettings):
    """Settings of hierarchical preference learning; the defaults are its paper's.

    Whole episodes, action groups, steps and the experts' likelihood, each with weight 1.
    """

    learning_rate: float = option(3e-6, "peak learning rate; 3e-6 on ALFWorld, 1e-6 elsewhere")
    epochs: float = option(1.0, "passes over the data in each phase of the curriculum")
    beta: float = option(0.3, "pull towards the reference model: higher stays closer")
    group_weight: float = option(1.0, "weight of the mean preference loss of action groups")
    curriculum: bool = option(
        True,
        "let action groups in by three phases of `epochs` passes each, short and clear ones first",
    )


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
    share_prefix: str = option(
        "auto",
        "pack the rows of a micro-batch's episodes without padding, and compute what they share "
        "at their beginnings once: same result, less memory and time; 'auto': where the model's "
        "attention allows it and enough is saved; 'on': always; 'off': never",
        choices=("auto", "on", "off"),
        added=True,
    )
    advantage: str = option(
        "turn",
        "'turn': the critic's estimate for each turn; 'gigpo', 'cost-to-go' and 'milestones' add "
        "what the simulator credits the turn with, see docs/methods/advantages.md",
        choices=("turn", "gigpo", "cost-to-go", "milestones", "episode"),
        added=True,
    )
    advantage_weight: float = option(
        0.1, "weight of what the simulator adds, before advantages are scaled", added=True
    )
    advantage_discount: float = option(
        0.95, "per turn, of what follows, for 'gigpo' and 'milestones'", added=True
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
        _refuse_mask(self)
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
        if self.advantage == "episode":
            raise SettingsError("'episode' compares a task's episodes, as grpo and rloo do")
        if self.advantage_weight < 0 or not 0 <= self.advantage_discount <= 1:
            raise SettingsError("expected advantage_weight >= 0 and advantage_discount in 0..1")
        if self.optimizer not in ("adamw", "adamw8bit", "paged_adamw8bit"):
            raise SettingsError("PPO takes many small noisy steps: use adamw, not muon")


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
    share_prefix: str = option(
        "auto",
        "pack the rows of a micro-batch's episodes without padding, and compute what they share "
        "at their beginnings once: same loss, less memory and time; 'auto': where the model's "
        "attention allows it and enough is saved; 'on': always; 'off': never",
        choices=("auto", "on", "off"),
        added=True,
    )
    advantage: str = option(
        "episode",
        "what a turn is credited with beside its episode's advantage: 'episode', nothing; 'gigpo', "
        "how its return compares with those of turns taken in the same state; 'cost-to-go', the "
        "steps to success that it saved; 'milestones', the sub-goals that it and later turns "
        "reached. All but 'episode' need grpo, and leave tasks without any contrast out",
        choices=("episode", "gigpo", "cost-to-go", "milestones", "turn"),
        added=True,
    )
    advantage_weight: float = option(
        1.0, "weight of a turn's own advantage: 1 in GiGPO; 0.1 suits 'cost-to-go'", added=True
    )
    advantage_discount: float = option(
        0.95, "per turn, of what follows, for 'gigpo' and 'milestones'", added=True
    )
    horizon_start: int = option(
        0, "turns of an episode at first, where they are to grow; 0: the environment's", added=True
    )
    horizon_growth: float = option(
        0.5, "turns that each optimizer step adds, up to the environment's limit", added=True
    )

    def __post_init__(self) -> None:
        """Reject values that cannot work."""
        super().__post_init__()
        _refuse_mask(self)
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
        if self.advantage == "turn":
            raise SettingsError("'turn' needs a critic, which grpo and rloo have not: ppo has one")
        if self.advantage_weight < 0 or not 0 <= self.advantage_discount <= 1:
            raise SettingsError("expected advantage_weight >= 0 and advantage_discount in 0..1")
        if self.horizon_start < 0 or self.horizon_growth < 0:
            raise SettingsError("expected horizon_start >= 0 and horizon_growth >= 0")

    def repeats(self, tasks: int) -> int:
        """Return how often each of some tasks stands in a pass: so often that a batch is filled.

        Args:
            tasks: How many there are to learn from; at least one.
        """
        return -(-(self.batch_size // self.generations) // tasks)


def refuse_turns(settings: GroupSettings) -> None:
    """Refuse advantages of turns for RLOO.

    Raises:
        SettingsError: One is asked for.
    """
    if settings.advantage != "episode":
        raise SettingsError(
            "rloo weighs whole episodes, so its turns have no advantage of their own: expected "
            f"advantage 'episode', got {settings.advantage!r}; grpo takes it"
        )
