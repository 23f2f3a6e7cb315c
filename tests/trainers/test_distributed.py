"""Two processes learn what one learns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eto_gym.trainers import DPOSettings, SFTSettings, make_pairs, run_dpo, run_sft
from eto_gym.trainers.batching import BucketSampler
from eto_gym.trainers.training import Watch
from eto_gym.trajectories import Trajectory

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

Play = Callable[..., Trajectory]

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


def run_all(play: Play, model: str, player: str, out: Path) -> None:
    """Train with every method; score during one of them. `player` is a model that plays locks."""
    experts = [play(n, rounds=1 + n % 3) for n in range(ROWS)]
    watch = Watch(progress=False, every=2, on_evaluate=lambda step, _: -abs(step - 4))
    run_sft(SFTSettings(**QUICK), experts, model=model, output=out / "sft", watch=watch)
    agent = [play(n, good=False, rounds=1 + n % 2) for n in range(ROWS)]
    pairs, _ = make_pairs(agent, experts)
    for name, changes in (("dpo", {}), ("lora", {"lora_r": 2, "precompute_reference": False})):
        settings = DPOSettings(**{**QUICK, **changes})
        run_dpo(settings, pairs, model=model, output=out / name, watch=Watch(progress=False))
    for name in ("grpo", "rloo"):
        run_locks(name, player, out / name)
    run_rounds(player, out / "ppo")
    run_rounds(player, out / "ppo-lora", lora_r=2, learning_rate=1e-2)


def locks_player(episodes: int, *, seed: int = 0) -> Any:
    """Return what plays locks, so many episodes at a time."""
    from eto_gym.agents.collect import RolloutSpec
    from eto_gym.agents.policies import expert_policy
    from eto_gym.trainers.ppo import EpisodePlayer
    from tests.trainers.locks import LOCKS_ID, LocksEnv

    return EpisodePlayer(
        RolloutSpec(LOCKS_ID, expert_policy, prompt_style="none", slots=16),
        LocksEnv().task_set.ids, episodes=episodes, seed=seed, max_new_tokens=12, context=256,
    )  # fmt: skip


def run_rounds(model: str, out: Path, **changes: Any) -> None:
    """Learn by PPO from two rounds of 21 episodes, of which the second batch has 5."""
    from eto_gym.trainers.ppo import PPOSettings, run_ppo

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
    from eto_gym.trainers.group import GroupSettings, run_group

    settings = GroupSettings(
        learning_rate=1e-3, max_steps=2, batch_size=16, micro_batch_size=4, generations=8,
        max_length=256, warmup_ratio=0,
    )  # fmt: skip
    player = locks_player(16)
    run_group(algorithm, settings, player, model=model, output=out, watch=Watch(progress=False))


SCRIPT = """
import importlib.util, sys
from pathlib import Path
def load(name):
    spec = importlib.util.spec_from_file_location(name, Path({here!r}) / f"{{name}}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
load("test_distributed").run_all(load("conftest").play, {model!r}, {player!r}, Path({out!r}))
"""


@pytest.mark.timeout(600)
def test_two_processes_equal_one(
    make_play: Play, tiny: Path, locksmith: Path, tmp_path: Path
) -> None:
    here = str(Path(__file__).parent)
    script = tmp_path / "train.py"
    words = {"model": str(tiny), "player": str(locksmith), "out": str(tmp_path / "two")}
    script.write_text(SCRIPT.format(here=here, **words))
    root = Path(__file__).parents[2]
    config = root / "configs" / "accelerate" / "cpu.yaml"
    launch = ["accelerate.commands.launch", "--config_file", str(config)]
    port = ["--main_process_port", "0"]
    done = subprocess.run(
        [sys.executable, "-m", *launch, *port, str(script)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    run_all(make_play, str(tiny), str(locksmith), tmp_path / "one")
    for name in ("sft", "dpo", "lora"):
        one, two = (
            json.loads((tmp_path / count / name / "training.json").read_text())
            for count in ("one", "two")
        )
        assert len(one["metrics"]) == len(two["metrics"]) == 6
        for first, second in zip(one["metrics"], two["metrics"], strict=True):
            for key in set(first) & {"loss", "grad_norm", "learning_rate", "rewards/margins"}:
                assert second[key] == pytest.approx(first[key], rel=1e-3, abs=1e-5), (name, key)
        assert one["data"] == two["data"]
        assert (one["best"], one["scores"]) == (two["best"], two["scores"])
        weights = [_weights(tmp_path / count / name) for count in ("one", "two")]
        for key, value in weights[0].items():
            assert torch.allclose(value, weights[1][key], atol=1e-4), (name, key)
        assert not (tmp_path / "two" / f"{name}.work").exists()

    for name in ("grpo", "rloo"):
        one, two = (
            json.loads((tmp_path / count / name / "training.json").read_text())
            for count in ("one", "two")
        )
        assert len(one["metrics"]) == len(two["metrics"]) == 2
        assert any(entry["reward"] > 0 for entry in one["metrics"]), name
        for first, second in zip(one["metrics"], two["metrics"], strict=True):
            for key in ("loss", "grad_norm", "reward", "reward_std", "success"):
                assert second[key] == pytest.approx(first[key], rel=1e-3, abs=1e-5), (name, key)
        assert {**one["data"], "losses": 0} == {**two["data"], "losses": 0}
        assert one["data"]["rows"] == 32
        weights = [_weights(tmp_path / count / name) for count in ("one", "two")]
        for key, value in weights[0].items():
            # Adam divides by the size of a gradient: where that is nearly 0, rounding decides.
            assert ((value - weights[1][key]).abs() > 1e-4).float().mean() < 0.01, (name, key)

    for name in ("ppo", "ppo-lora"):
        one, two = (
            json.loads((tmp_path / count / name / "training.json").read_text())
            for count in ("one", "two")
        )
        assert len(one["metrics"]) == len(two["metrics"]) == 2
        assert all(entry["success"] > 0 for entry in one["metrics"]), name
        for first, second in zip(one["metrics"], two["metrics"], strict=True):
            assert set(first) == set(second)
            for key, value in first.items():
                assert second[key] == pytest.approx(value, rel=1e-3, abs=1e-5), (name, key)
        assert one["data"] == two["data"]
        assert one["data"]["rows"] == 42
        for key in ("steps", "scores", "best", "kept_step"):
            assert one[key] == two[key], (name, key)
        weights = [_weights(tmp_path / count / name) for count in ("one", "two")]
        for key, value in weights[0].items():
            # Adam divides by the size of a gradient: where that is nearly 0, rounding decides.
            assert ((value - weights[1][key]).abs() > 1e-4).float().mean() < 0.01, (name, key)


def _weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    (file,) = folder.glob("*model.safetensors")
    return dict(load_file(file))


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
