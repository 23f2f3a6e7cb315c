"""Every recorded step of the original engine; the recordings lie beside the checkout."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from eto_gym.envs.scienceworld.session import EngineSession
from eto_gym.envs.scienceworld.tasks import task_names

FILE = (
    Path(__file__).resolve().parents[4]
    / "shared/golden/scienceworld/golden-1.2.3-easy-hash2.jsonl.gz"
)

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not FILE.exists(), reason="no recordings beside the checkout"),
    pytest.mark.timeout(3600),
]


def _records() -> dict[str, list[dict[str, Any]]]:
    """Return the recorded episodes by task name."""
    by_task: dict[str, list[dict[str, Any]]] = {}
    with gzip.open(FILE, "rt", encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            by_task.setdefault(record["task"], []).append(record)
    return by_task


@pytest.fixture(scope="module")
def records() -> dict[str, list[dict[str, Any]]]:
    return _records()


@pytest.mark.parametrize("name", task_names())
def test_recorded_episodes(
    warm_lane: EngineSession, records: dict[str, list[dict[str, Any]]], name: str
) -> None:
    session = EngineSession(lanes=1, as_stock=True)
    assert records[name]
    for record in records[name]:
        for kind in ("gold_steps", "rand_steps"):
            session.load(name, record["var"], record["simpl"])
            start = (session.task_description(), session.look(), session.inventory())
            assert start == (record["task_desc"], record["look0"], record["inv0"])
            for index, step in enumerate(record[kind]):
                where = f"{name}/{record['var']} {kind}[{index}] {step['a']!r}"
                if "valid_sha" in step:
                    actions = session.valid_actions()
                    assert len(actions) == step["n_valid"], where
                    digest = hashlib.sha1("\n".join(actions).encode()).hexdigest()[:12]
                    assert digest == step["valid_sha"], where
                got = session.step(step["a"])
                assert got.observation == step["obs"], where
                assert (got.score, got.completed) == (step["score"], step["done"]), where
                assert session.inventory() == step["inv"], where
                assert session.look() == step["look"], where
    session.close()


@pytest.mark.parametrize("name", ["boil", "chemistry-mix", "find-plant", "use-thermometer"])
def test_recorded_gold_paths(
    session: EngineSession, records: dict[str, list[dict[str, Any]]], name: str
) -> None:
    for record in records[name]:
        assert session.gold_path(name, record["var"], record["simpl"]) == record["gold"]
