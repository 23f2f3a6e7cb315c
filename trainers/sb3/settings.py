"""The settings of a Stable-Baselines3 run, with the help text beside each field."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, get_args

from eto_gym.agents.sb3.candidates import Overflow
from eto_gym.errors import EtoGymError, check_choice

ALGOS = ("ppo", "dqn")

_FROM_ONE = ("steps", "num_envs", "eval_episodes", "max_candidates", "features_dim", "width")
_FROM_ZERO = ("env_workers", "history", "seed")
_OPTIONS = {
    "num_envs": "--slots",
    "eval_episodes": "--eval-tasks",
    "history": "--history-actions",
}
"""Options whose names are not those of their settings."""


def _option(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class SB3Settings:
    """What is trained, on what, and for how long.

    Raises:
        UnknownNameError: A named choice does not exist.
        EtoGymError: A number is too small to work.
    """

    env: str = _option("ETO/ALFWorld-v0", "registered id of the environment")
    env_options: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "arguments of gym.make, the split excluded"}
    )
    algo: str = _option("ppo", "'ppo' (sb3-contrib's MaskablePPO) or 'dqn'")
    steps: int = _option(100_000, "environment steps, over all environments")
    num_envs: int = _option(8, "environments that play at the same time")
    env_workers: int = _option(
        0, "processes over which they are spread; 0: they play in this one, which suits fast ones"
    )
    split: str = _option("train", "split that is trained on")
    eval_split: str = _option("test", "split of the final evaluation")
    eval_episodes: int = _option(200, "tasks of the final evaluation, a random part of the split")
    max_candidates: int = _option(
        64, "places for admissible actions; 64 hold all of the built-in ALFWorld and WebShop tasks"
    )
    overflow: str = _option(
        "sample",
        "where more actions are admissible: 'sample' keeps a uniform sample of each turn's and "
        "counts the rest in the results; 'error' stops",
    )
    history: int = _option(8, "actions that the history features cover")
    features_dim: int = _option(128, "buckets of the hashed text features")
    width: int = _option(64, "width of the network")
    learning_rate: float = _option(
        1e-3, "of Adam; SB3's 3e-4 (PPO) and 1e-4 (DQN) are for networks that see far more steps"
    )
    gamma: float = _option(
        0.95, "discount per step; episodes last tens of steps, and a nearer horizon learns faster"
    )
    algo_args: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "arguments of SB3's class, over the ones chosen here"},
    )
    seed: int = _option(0, "of weights, tasks, exploration and evaluation")
    device: str = _option("cpu", "torch device; so small a network is fastest on the CPU")

    def __post_init__(self) -> None:
        """Reject values that cannot work."""
        check_choice("algo", self.algo, ALGOS)
        check_choice("overflow", self.overflow, get_args(Overflow))
        for names, least in ((_FROM_ONE, 1), (_FROM_ZERO, 0)):
            for name in names:
                if getattr(self, name) < least:
                    said = f" ({_OPTIONS[name]} on the command line)" if name in _OPTIONS else ""
                    raise EtoGymError(
                        f"expected {name}{said} of at least {least}, got {getattr(self, name)}"
                    )
        if not 0 < self.learning_rate < math.inf:
            raise EtoGymError(f"expected learning_rate > 0, got {self.learning_rate}")
        if not 0 <= self.gamma <= 1:
            raise EtoGymError(f"expected gamma in [0, 1], got {self.gamma}")
        if "split" in self.env_options:
            raise EtoGymError(
                "env_options names a split: use split and eval_split instead, on the command line "
                "--train-split and --eval-split"
            )
