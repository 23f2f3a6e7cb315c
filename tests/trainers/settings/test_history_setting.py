"""The history as a setting of the loops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import eto_gym
from eto_gym import EtoGymError
from eto_gym.agents.policies import expert_policy
from eto_gym.agents.rollout.engine import Rollout, plan_episodes
from eto_gym.history import STATE_VERSION, Exchange, Recap
from eto_gym.trainers.data.history import read_again
from eto_gym.trainers.loops.rft import RFTLoop
from eto_gym.trainers.loops.run_folder import digest
from eto_gym.trainers.loops.stage_data import load_trajectories
from eto_gym.trainers.settings.loops import PPOLoopSettings, RFTSettings
from eto_gym.trajectories.formats import to_paper_sft

ALFWORLD = "ETO/ALFWorld-v0"


def experts(history: str) -> list[Any]:
    rollout = Rollout(lambda: gym.make(ALFWORLD), expert_policy(), history=history, slots=1)
    tasks = list(gym.make(ALFWORLD).unwrapped.task_set.ids[:3])  # type: ignore[attr-defined]
    return list(rollout.play(plan_episodes(tasks)))


def test_what_was_recorded_with_all_is_read_again_with_less() -> None:
    env = gym.make(ALFWORLD)
    full = experts("full")
    for history in ("last:2", "state", "state:1"):
        assert [read_again(t, history, env) for t in full] == experts(history)
    assert [read_again(t, "full", env) for t in experts("state")] == full
    env.close()


def test_each_step_is_told_once_where_a_trajectory_is_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env = gym.make(ALFWORLD)
    full = experts("full")
    told: list[Exchange] = []
    add = Recap.add

    def count(recap: Recap, exchange: Exchange) -> None:
        told.append(exchange)
        add(recap, exchange)

    monkeypatch.setattr(Recap, "add", count)
    short = [read_again(t, "state", env) for t in full]
    assert [e.action for e in told] == [step.action for t in full for step in t.steps]
    assert [len(t.states) for t in short] == [len(t.steps) for t in full]
    env.close()


def test_experts_of_a_file_are_read_with_the_runs_history(tmp_path: Path) -> None:
    full, bounded = experts("full"), experts("state")
    file = tmp_path / "experts.json"
    file.write_text(json.dumps([to_paper_sft(t) for t in full]))
    settings = RFTSettings(env=ALFWORLD, history="state", expert_file=str(file))
    stage = RFTLoop(settings, tmp_path / "run").data.experts(settings)
    taken = load_trajectories(stage)
    assert [t.as_sampled() for t in taken] == [t.as_sampled() for t in bounded]


def test_the_default_leaves_the_keys_of_stages_as_they_were(tmp_path: Path) -> None:
    def key(**options: Any) -> str:
        settings = RFTSettings(env=ALFWORLD, train_tasks=1, progress=False, **options)
        loop = RFTLoop(settings, tmp_path / str(options))
        loop.play.open()
        return loop.data.experts(settings).key

    before = {
        "env": ALFWORLD,
        "env_kwargs": {"data": "builtin"},
        "split": "train",
        "seed": 0,
        "prompt_style": "one-shot",
        "version": eto_gym.__version__,
        "tasks": 1,
        "samples": 1,
    }
    assert key() == key(history="full") == digest(["experts", before, []])
    assert key(history="last:2") != key()


def test_wrong_histories_are_refused_by_name() -> None:
    with pytest.raises(EtoGymError, match="expected history 'full', 'last:K' or 'state'"):
        RFTSettings(history="lots")
    for good in ("last:2-thoughts", "full-thoughts"):
        assert PPOLoopSettings(history=good).read_so() == {"history": good}
    written = {"history": "state", "state_text": STATE_VERSION}  # what blocks say may change
    assert PPOLoopSettings(history="state").read_so() == written
    for wrong in ("last:0", "state:", "full:2", "-thoughts", "last:4-thought"):
        with pytest.raises(EtoGymError, match="got"):
            PPOLoopSettings(history=wrong)
