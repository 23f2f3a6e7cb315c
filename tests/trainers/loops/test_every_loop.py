"""Every loop in every environment, with the quickstart's settings made small, to its report."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import eto_gym
from eto_gym.cli import train
from eto_gym.registration import resolve_env_id
from eto_gym.trainers.loops.report import render
from eto_gym.trainers.settings import loops
from eto_gym.trainers.settings.base import TrainSettings
from eto_gym.trainers.settings.presets import from_preset
from tests.toy import CORRIDOR

IDS = ["alfworld", "webshop", "scienceworld", CORRIDOR]

SMALL: dict[str, Any] = {
    "train_tasks": 4, "explore_tasks": 3, "explore_samples": 2, "step_tasks": 2, "eval_tasks": 2,
    "control_epochs": 0.0,  # as long as SFT
    "dev_tasks": 1, "max_steps": 12, "max_new_tokens": 6, "max_context": 8192,
    "slots": 8, "workers": 1,
    "progress": False,
}  # fmt: skip
"""Sizes that a loop has for itself."""

PARTS: dict[str, dict[str, Any]] = {
    "base": {"tasks": 4, "steps": 3, "vocab_size": 400, "hidden_size": 16, "layers": 1, "heads": 2,
             "kv_heads": 1, "mlp_size": 16},
    "steps": {"rollouts": 2},
    "experience": {"tries": 2, "source": "random"},  # a model this small says no action
    "groups": {"rollouts": 2},
    "pairing": {"contrast": "expert"},  # so that a model that only fails makes pairs
    "ppo": {"rounds": 1, "episodes": 4, "max_steps": 0},
    "group": {"max_steps": 1, "batch_size": 4, "micro_batch_size": 4, "generations": 2},
}  # fmt: skip
"""Sizes of its parts."""


def small(method: str, env: str) -> Any:
    """Return the quickstart of a method with sizes for a test; all else is as a user gets it."""
    entry = train.LOOPS[method]
    kind = getattr(loops, entry.settings)
    whole = from_preset(kind, "quickstart", method=method, env=resolve_env_id(env))
    changes: dict[str, Any] = {}
    for item in dataclasses.fields(whole):
        part = getattr(whole, item.name)
        if item.name in SMALL:
            changes[item.name] = SMALL[item.name]
        elif hasattr(part, "__dataclass_fields__"):
            sizes = dict(PARTS.get(item.name, {}))
            if method == "self-play":
                sizes.pop("contrast", None)
            if item.name == "base":
                sizes["train"] = dataclasses.replace(part.train, max_steps=1)
                sizes["context"] = 8192  # of many tokens, since the vocabulary is so small
            elif isinstance(part, TrainSettings):
                sizes |= {"max_length": 8192, "max_steps": 1} | sizes
            changes[item.name] = dataclasses.replace(part, **sizes)
    return dataclasses.replace(whole, **changes)


QUICK = ("eto", "ppo")
"""Loops that `make test` runs on ScienceWorld, which takes longest; the rest is marked slow."""


def loops_and_worlds() -> Iterator[Any]:
    for env in IDS:
        for method in train.LOOPS:
            slow = env == "scienceworld" and method not in QUICK
            marks = [pytest.mark.slow] if slow else []
            yield pytest.param(env, method, marks=marks, id=f"{env}-{method}")


@pytest.fixture(scope="module")
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """An environment and one run folder for all loops: they share the stages that are the same."""
    return request.param, tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def running_engine(world: tuple[str, Path]) -> Any:
    """Keep what an engine keeps running, such as a JVM, from one stage to the next."""
    env = gym.make(resolve_env_id(world[0]))
    env.reset(seed=0)
    yield env
    env.close()


@pytest.mark.parametrize(("world", "method"), loops_and_worlds(), indirect=["world"])
def test_every_loop_ends_with_a_report(
    method: str, world: tuple[str, Path], running_engine: Any
) -> None:
    env, folder = world
    entry = train.LOOPS[method]
    loop = getattr(importlib.import_module(entry.module), entry.loop)
    report = loop(small(method, env), folder).run()
    assert report["method"] == method
    assert report["policies"], "at least the model that training starts from is evaluated"
    assert all(row["episodes"] == SMALL["eval_tasks"] for row in report["policies"])
    assert not any(row["errors"] for row in report["policies"])
    if method == "self-play":  # a model that has learnt nothing succeeds in nothing
        assert "no successful trajectory to learn from" in report["ended"]
    else:
        assert not report["ended"]
        assert len(report["policies"]) >= 3, "untrained, SFT, and what the method made"
    assert (folder / "report.md").read_text() == render(report) + "\n"


def test_the_ids_are_all_that_there_are() -> None:
    assert {resolve_env_id(name) for name in IDS} == {*eto_gym.registered_ids(), CORRIDOR}
