"""Settings of what is chosen from trajectories: pairs, own successes, steps."""

from __future__ import annotations

from dataclasses import dataclass

from eto_gym.trainers.settings.base import SettingsError, check_values, option

CONTRASTS = ("expert", "self", "correction", "unpaired")
CUTS = ("none", "first-error", "final-error")
EXTENTS = ("rest", "step")
STEP_REWARDS = ("rollouts", "exact")
SOURCES = ("start", "sft", "random")


@dataclass(frozen=True, kw_only=True)
class PairingSettings:
    """How trajectories of one task become pairs.

    A round is one turn of the agent together with the observation that answers it.
    """

    contrast: str = option(
        "expert",
        "'expert': each sample of the agent against the expert; 'self': the agent's best sample "
        "of a task against its worst; 'correction': at each step of the agent's failures, the "
        "expert's reply against the agent's, both to the same conversation; 'unpaired': no pairs, "
        "every success and every failure by itself, for the loss 'kto'",
        paper="expert",
        choices=CONTRASTS,
    )
    max_extra_rounds: int | None = option(
        5,
        "a rejected side with more than this many rounds above the chosen side's is cut to the "
        "chosen side's rounds plus this many; None: never",
        paper="5",
    )
    cut_after_divergence: int | None = option(
        None,
        "end the rejected side this many rounds after the first turn whose action differs from the "
        "chosen side's (0: that turn is its last); None: keep it",
        paper="None",
    )
    min_gap: float = option(
        1e-6, "rewards that differ by no more than this are a tie; allows for rounding", paper="0"
    )
    max_pairs_per_task: int | None = option(
        None,
        "at most this many pairs of one task; None: one per sample ('self': one; 'correction': as "
        "many as there are); not for 'unpaired'",
    )
    cut: str = option(
        "none",
        "end the agent's failure with the step that left the path to success, which the "
        "environment's cost_to_go tells: 'first-error', the first that brought success no nearer; "
        "'final-error', the one after which the episode never came as near again; 'none': do not "
        "look",
        choices=CUTS,
        added=True,
    )

    def __post_init__(self) -> None:
        """Reject values that cannot work."""
        check_values(self, {"min_gap": 0})
        if self.cut != "none" and self.contrast == "correction":
            raise SettingsError("corrections compare single replies: there is nothing to cut")
        for name in ("max_extra_rounds", "cut_after_divergence"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise SettingsError(f"expected {name} >= 0 or None, got {value}")
        if self.max_pairs_per_task is not None and self.max_pairs_per_task < 1:
            raise SettingsError(f"expected max_pairs_per_task >= 1, got {self.max_pairs_per_task}")


@dataclass(frozen=True, kw_only=True)
class RejectionSettings:
    """Which episodes are kept; the others are rejected."""

    max_per_task: int = option(
        1,
        "at most this many successes of one task: those with the highest reward, then the fewest "
        "turns, so that easy tasks do not crowd out the hard ones; 0: all",
    )

    def __post_init__(self) -> None:
        """Reject values that cannot work."""
        check_values(self, {"max_per_task": 0})


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """How steps are tried, valued and paired."""

    rollouts: int = option(
        5, "episodes played on from a step to estimate its value", paper="5 in IPR"
    )
    temperature: float = option(
        1.0, "sampling temperature of these episodes; greedy ones would all be the same"
    )
    alternatives: int = option(
        1, "other actions of the agent that are valued at each step", paper="1 in IPR"
    )
    threshold: float = option(
        0.01,
        "a pair's values differ by more than this; with few rollouts a small difference is noise",
        paper="0.01 in IPR's script",
    )
    extent: str = option(
        "rest",
        "what is compared: 'rest', the episode from the step on, as IPR does; 'step', the step's "
        "reply alone",
        paper="both are tried; step: 62.8 on WebShop",
        choices=EXTENTS,
    )
    reward: str = option(
        "rollouts",
        "what a step is worth: 'rollouts', what episodes earn on average that go on from it; "
        "'exact', by how many steps success is then away, told by the environment's cost_to_go: "
        "nothing is played on, and the replies of the step alone are compared",
        choices=STEP_REWARDS,
        added=True,
    )
    size: int = option(
        1,
        "replies in a row that are tried and compared as one, from every such number of steps on: "
        "1, single steps; 3, HPL's fixed action groups, with the extent 'step'",
        added=True,
    )

    def __post_init__(self) -> None:
        """Reject values that cannot work."""
        least = {"rollouts": 1, "alternatives": 1, "size": 1, "temperature": 0, "threshold": 0}
        check_values(self, least)


@dataclass(frozen=True, kw_only=True)
class ExperienceSettings:
    """Which other actions are tried at the steps of demonstrations, to see what comes of them."""

    source: str = option(
        "start",
        "what they come from: 'start', replies of the model that training starts from; 'sft', of "
        "the model after SFT; 'random', admissible actions at random",
        paper="the initial policy",
        choices=SOURCES,
    )
    tries: int = option(
        4,
        "replies that are asked for at each step; those with another action than the expert's "
        "are played, each action once",
    )
    temperature: float = option(1.0, "sampling temperature of these replies")

    def __post_init__(self) -> None:
        """Reject values that cannot work."""
        check_values(self, {"tries": 1, "temperature": 0})


@dataclass(frozen=True, kw_only=True)
class ActionGroupSettings(StepSettings):
    """How groups of steps are tried, valued and paired."""

    size: int = option(3, "steps of an action group; the last one of an episode may have fewer")
    extent: str = option(
        "step",
        "what is compared: 'step', the replies of the group; 'rest', the episode from there on",
        choices=EXTENTS,
    )
