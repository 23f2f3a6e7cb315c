"""Many environments and few open files: what a user's machine grants is enough."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import pytest

import eto_gym  # noqa: F401
from eto_gym.cli.main import main
from eto_gym.trajectories import TrajectoryStore


@pytest.fixture
def few_files() -> Iterator[None]:
    """Grant 16 more open files than there are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len([*Path("/proc/self/fd").iterdir()]) + 16, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("few_files")
@pytest.mark.parametrize("env", ["alfworld --env-arg data=builtin:small", "webshop"])
def test_a_rollout_with_many_environments_opens_few_files(env: str, tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    words = f"rollout {env} --policy random --limit 64 --slots 64 --out {out}"
    assert main(words.split()) == 0
    assert len(TrajectoryStore(out).load()) == 64


@pytest.mark.parametrize("env_id", ["ETO/ALFWorld-v0", "ETO/WebShop-v0"])
def test_512_environments_of_one_process_share_what_they_hold(env_id: str) -> None:
    gym.make(env_id).reset(seed=0)
    before = resident()
    envs = [gym.make(env_id) for _ in range(512)]
    for number, env in enumerate(envs):
        env.reset(seed=number)
    assert resident() - before < 100 << 20
    for env in envs:
        env.close()


def resident() -> int:
    """Return the bytes of memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize()
