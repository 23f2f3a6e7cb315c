"""Two processes learn what one learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eto_gym.trainers import DPOSettings, SFTSettings, make_pairs, run_dpo, run_sft
from eto_gym.trainers.data.batching import BucketSampler
from eto_gym.trainers.run.training import Watch
from tests.trainers.conftest import play
from tests.trainers.processes import compare, fork

pytest.importorskip("torch")
pytest.importorskip("accelerate")

QUICK: dict[str, Any] = {
    "learning_rate": 1e-3,
    "epochs": 2,
    "batch_size": 4,
    "micro_batch_size": 2,
    "max_length": 512,
    "warmup_ratio": 0,
}
ROWS = 9
"""Two whole batches, and one of a single row: there the second process has nothing to add."""


def run_all(model: str, player: str, output: str) -> None:
    """Train with every method; score during one of them. `player` is a model that plays locks."""
    out = Path(output)
    experts = [play(n, rounds=1 + n % 3) for n in range(ROWS)]
    watch = Watch(progress=False, every=2, on_evaluate=lambda step, _: -abs(step - 4))
    for name, sharing in (("sft", "off"), ("shared", "on")):
        settings = SFTSettings(**QUICK, share_prefix=sharing)
        run_sft(settings, experts, model=model, output=out / name, watch=watch)
    agent = [play(n, good=False, rounds=1 + n % 2) for n in range(ROWS)]
    pairs, _ = make_pairs(agent, experts)
    for name, changes in (("dpo", {}), ("lora", {"lora_r": 2, "precompute_reference": False})):
        preferred = DPOSettings(**{**QUICK, **changes})
        run_dpo(preferred, pairs, model=model, output=out / name, watch=Watch(progress=False))
    for name in ("grpo", "rloo"):
        run_locks(name, player, out / name)
    run_rounds(player, out / "ppo")
    run_rounds(player, out / "ppo-lora", lora_r=2, learning_rate=1e-2)


def locks_player(episodes: int, *, seed: int = 0) -> Any:
    """Return what plays locks, so many episodes at a time."""
    from eto_gym.agents.policies import expert_policy
    from eto_gym.agents.rollout.collect import RolloutSpec
    from eto_gym.trainers.methods.player import EpisodePlayer
    from tests.trainers.locks import LOCKS_ID, LocksEnv

    return EpisodePlayer(
        RolloutSpec(LOCKS_ID, expert_policy, prompt_style="none", slots=16),
        LocksEnv().task_set.ids, episodes=episodes, seed=seed, max_new_tokens=12, context=256,
    )  # fmt: skip


def run_rounds(model: str, out: Path, **changes: Any) -> None:
    """Learn by PPO from two rounds of 21 episodes, of which the second batch has 5."""
    from eto_gym.trainers.methods.ppo import run_ppo
    from eto_gym.trainers.settings.methods import PPOSettings

    settings: dict[str, Any] = {
        "learning_rate": 1e-3, "value_learning_rate": 1e-2, "rounds": 2, "episodes": 21,
        "batch_size": 16, "micro_batch_size": 4, "max_length": 256, "warmup_ratio": 0,
        "target_kl": 0, "kl_weight": 0.1, "value_clip": 0.5,
    }  # fmt: skip
    watch = Watch(progress=False, on_evaluate=lambda round, _: -abs(round - 1))
    run_ppo(
        PPOSettings(**{**settings, **changes}),
        locks_player(21, seed=1), model=model, output=out, watch=watch,
    )  # fmt: skip


def run_locks(algorithm: str, model: str, out: Path) -> None:
    """Learn from 16 episodes at each of two steps."""
    from eto_gym.trainers.methods.group import run_group
    from eto_gym.trainers.settings.methods import GroupSettings

    settings = GroupSettings(
        learning_rate=1e-3, max_steps=2, batch_size=16, micro_batch_size=4, generations=8,
        max_length=256, warmup_ratio=0,
    )  # fmt: skip
    player = locks_player(16)
    run_group(algorithm, settings, player, model=model, output=out, watch=Watch(progress=False))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_equal_one(tiny: Path, locksmith: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    words = (str(tiny), str(locksmith))
    fork(run_all, *words, str(two))
    run_all(*words, str(one))
    for name in ("sft", "shared", "dpo", "lora"):
        first, second = compare(one / name, two / name, entries=6, near=1e-4)
        for key in ("data", "best", "scores"):
            assert first[key] == second[key], (name, key)

    keys = ("loss", "grad_norm", "reward", "reward_std", "success")
    for name in ("grpo", "rloo"):
        # Adam divides by the size of a gradient: where that is nearly 0, rounding decides.
        first, second = compare(one / name, two / name, entries=2, keys=keys, near=1e-4, apart=0.01)
        assert any(entry["reward"] > 0 for entry in first["metrics"]), name
        assert {**first["data"], "losses": 0} == {**second["data"], "losses": 0}
        assert first["data"]["rows"] == 32

    rounds = (
        "epoch", "step", "success", "reward", "turns", "errors", "kl_reference", "loss",
        "value_loss", "kl", "clipped", "grad_norm",
    )  # fmt: skip
    for name in ("ppo", "ppo-lora"):
        first, second = compare(
            one / name, two / name, entries=2, keys=rounds, near=1e-4, apart=0.01
        )
        assert all(entry["success"] > 0 for entry in first["metrics"]), name
        for key in ("data", "steps", "scores", "best", "kept_step"):
            assert first[key] == second[key], (name, key)
        assert first["data"]["rows"] == 42


def test_processes_share_each_batch_without_overlap() -> None:
    lengths = [(7 * n) % 23 for n in range(21)]

    def batches(rank: int, world: int) -> list[list[int]]:
        sampler = BucketSampler(
            lengths, batch_size=8, micro_batch_size=2, seed=1, rank=rank, world=world
        )
        assert len(sampler) == len(list(sampler))
        return list(sampler)

    alone = batches(0, 1)
    shared = [batches(rank, 2) for rank in range(2)]
    assert [len(part) for part in shared] == [6, 6]
    dealt = [batch for turn in zip(*shared, strict=True) for batch in turn]
    assert [batch for batch in dealt if batch[0] >= 0] == alone
    assert dealt[-1] == [~alone[-3][0]]  # nothing is left for the second process
