"""The playing stages of a loop on a Ray cluster of two cores on this machine."""

from __future__ import annotations

import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from eto_gym.agents.policies import expert_policy
from eto_gym.trainers.loops.play_stages import PlayStages
from eto_gym.trainers.loops.stage_data import TRAJECTORIES
from eto_gym.trainers.settings.loops import ETOSettings
from eto_gym.trainers.settings.world import ExplorationSettings
from tests.toy import CORRIDOR

if find_spec("ray") is None:  # not imported here: the launcher must be the first to do so
    pytest.skip("needs the extra ray", allow_module_level=True)
pytest.importorskip("torch")

EXPLORE = ExplorationSettings(explore_tasks=6, explore_samples=2, explore_temperature=1.0)


def play(out: str, launcher: str) -> dict[str, list[dict[str, Any]]]:
    """Run a scripted stage and one that a model plays; return the records of both.

    Without what was prefilled, which depends on who shared a policy, and the digest of it.
    """
    settings = ETOSettings(
        env=CORRIDOR, data="", max_steps=4, eval_split="test", prompt_style="none", slots=4,
        max_new_tokens=6, max_context=400, progress=False, launcher=launcher, workers=2,
    )  # fmt: skip
    stages = PlayStages(settings, out)  # a relative path, as users give it
    stages.open()
    named = {"model": "model"}
    model = stages.folder.run("model", lambda _: named, settings=named)
    experts = stages.rollouts(
        "experts",
        expert_policy,
        split="train",
        episodes=stages.planned("train", 6),
        depends_on={},
    )
    explored = stages.explore("explore-1", model, EXPLORE, tasks=6)
    return {stage.path.name: records(stage.path / TRAJECTORIES) for stage in (experts, explored)}


def records(path: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [{k: v for k, v in item.items() if k not in ("usage", "digest")} for item in found]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_stages_are_the_same_on_a_cluster(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eto_gym.agents.rollout.ray_cluster import ray_cluster

    root = str(Path(__file__).parents[3])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [root, os.getenv("PYTHONPATH")])))
    with ray_cluster(num_cpus=2, object_store_memory=80 * 2**20, log_to_driver=False):
        # Not before: the nodes of a cluster are started in other folders than its commands.
        shutil.copytree(tiny, tmp_path / "model")
        monkeypatch.chdir(tmp_path)
        shared = play("ray", "ray:1")
    alone = play("local", "local")
    assert [len(played) for played in alone.values()] == [6, 12]
    assert shared == alone
