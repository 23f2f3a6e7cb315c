"""Trajectories as lines: nothing is changed by the way through another process."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eto_gym.prompt import Message
from eto_gym.trajectories import EncodedTrajectory, Step, Trajectory, TrajectoryStore
from eto_gym.trajectories.lines import decode, encode

TEXT = st.text(st.characters(codec=None), max_size=20)


@given(TEXT, st.none() | TEXT, st.floats(allow_nan=False), st.integers(0, 2**48))
def test_encoded_trajectories_come_back_the_same(
    text: str, action: str | None, reward: float, seed: int
) -> None:
    trajectory = Trajectory(
        text,
        "toy",
        (Message("user", text), Message("assistant", text, train=True)),
        (Step(action, text, reward),),
        "terminated",
        reward,
        True,
        env={"split": text, "settings": {"a": [1, None]}},
        seed=seed,
        usage={"tokens": 3},
        reasoning=(text or "why",),
        history="state",
        states=(text or "here",),
        facts=({"finish": text},),
        player={"model": text},
    )
    whole = asdict(trajectory)
    assert whole.pop("tokens") == ()  # kept where the policy was asked for them
    assert trajectory.to_json() == whole | {
        "messages": list(asdict(trajectory)["messages"]),
        "steps": list(asdict(trajectory)["steps"]),
        "reasoning": list(trajectory.reasoning),
        "states": list(trajectory.states),
        "facts": list(trajectory.facts),
    }
    encoded = encode(trajectory)
    assert decode(encoded) == trajectory
    assert decode(encoded).facts == trajectory.facts
    for name in ("key", "task_type", "outcome", "reward", "success", "error", "failed_to_run"):
        assert getattr(encoded, name) == getattr(trajectory, name)
    assert encoded.step_count == 1


@pytest.mark.parametrize("text", ["plain", "two halves \ud83d\ude00", "a half \ud800"])
def test_a_store_holds_the_same_of_both_forms(tmp_path: Path, text: str) -> None:
    trajectory = Trajectory(text, "toy", (), (), "error", 0.5, False, "policy")
    encoded = encode(trajectory)
    assert isinstance(encoded, EncodedTrajectory) == (text == "plain")
    with TrajectoryStore(tmp_path / "a") as a, TrajectoryStore(tmp_path / "b") as b:
        a.add(trajectory)
        b.add(encoded)
        assert a.path.read_bytes() == b.path.read_bytes()
    assert json.loads(a.path.read_bytes())["error"] == "policy"


def test_what_is_no_json_is_left_to_the_store_to_refuse(tmp_path: Path) -> None:
    trajectory = Trajectory("t", "toy", (), (), "terminated", float("nan"), True)
    assert encode(trajectory) is trajectory
    odd = replace(trajectory, reward=0.0, env={"x": object()})
    assert encode(odd) is odd
    with pytest.raises(TypeError):
        TrajectoryStore(tmp_path / "t").add(odd)
