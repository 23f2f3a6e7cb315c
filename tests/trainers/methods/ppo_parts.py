"""What the tests of PPO have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eto_gym.agents.rollout.collect import RolloutSpec
from eto_gym.trainers.methods.player import EpisodePlayer
from eto_gym.trainers.settings.methods import PPOSettings
from eto_gym.trajectories import Trajectory
from tests.trainers.locks import LOCKS_ID, LocksEnv

torch = pytest.importorskip("torch")
from eto_gym.trainers.data.encoding import TokenRow  # noqa: E402
from eto_gym.trainers.methods.ppo import PPOTrainer  # noqa: E402

Play = Callable[..., Trajectory]


QUICK = PPOSettings(
    learning_rate=1e-3, value_learning_rate=1e-2, rounds=4, episodes=16, batch_size=8,
    micro_batch_size=8, max_length=256, warmup_ratio=0, save_every=2, target_kl=0,
)  # fmt: skip


def new_player(episodes: int) -> EpisodePlayer:
    spec = RolloutSpec(LOCKS_ID, lambda: None, prompt_style="none", slots=128)  # type: ignore[arg-type,return-value]
    return EpisodePlayer(
        spec, LocksEnv().task_set.ids, episodes=episodes, seed=0, max_new_tokens=12, context=256
    )


def new_trainer(tiny: Path, folder: Path, settings: PPOSettings, play: Any = None) -> PPOTrainer:
    from eto_gym.trainers.data.encoding import TokenReport
    from eto_gym.trainers.model.models import default_codec, load_for_training, load_tokenizer

    tokenizer = load_tokenizer(tiny)
    return PPOTrainer(
        settings,
        model=load_for_training(tiny, settings),
        reference=load_for_training(tiny, settings),
        play=play,
        codec=default_codec(tokenizer),
        data=TokenReport(),
        tokenizer=tokenizer,
        workspace=folder,
    )


def token_rows(tiny: Path, plays: Sequence[Trajectory]) -> list[TokenRow]:
    from eto_gym.trainers.data.encoding import encode_trajectories
    from eto_gym.trainers.model.models import default_codec, load_tokenizer

    return encode_trajectories(default_codec(load_tokenizer(tiny)), plays, max_length=512)[0]


def rewarded(play: Trajectory, last: float) -> Trajectory:
    steps = [replace(step, reward=0.0) for step in play.steps]
    return replace(play, steps=(*steps[:-1], replace(steps[-1], reward=last)))
