"""The exchange formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eto_gym import DataError, Message
from eto_gym.files import write_json
from eto_gym.trajectories import JsonlFile, PreferencePair
from eto_gym.trajectories import formats as f

replies = st.text().map(lambda text: Message("assistant", f"Thought: {text}\nAction: go", True))
observations = st.text().map(lambda text: Message("user", text))
prompts = st.tuples(observations) | st.tuples(
    observations, st.just(Message("assistant", "OK.")), observations
)
continuations = st.tuples(replies, observations, replies) | st.tuples(replies)


@given(prompts, continuations, continuations)
def test_pairs_round_trip(prompt: Any, chosen: Any, rejected: Any) -> None:
    pair = PreferencePair("t", prompt, chosen, rejected)
    for write in (f.to_paper_dpo, f.to_hf_preference):
        record = json.loads(json.dumps(write(pair)))
        assert f.read_pair(record) == pair
        assert write(f.read_pair(record)) == record


@given(prompts, continuations)
def test_demonstrations_round_trip(prompt: Any, continuation: Any) -> None:
    turns = f.to_paper_turns([*prompt, *continuation])
    trajectory = f.read_demonstration({"id": "t", "conversations": turns})
    assert trajectory.messages == (*prompt, *continuation)
    assert f.to_paper_sft(trajectory) == {"id": "t", "conversations": turns}
    same = f.read_demonstration(f.to_hf_messages(trajectory))
    assert same == trajectory
    assert len(trajectory.steps) == sum(m.train for m in trajectory.messages)
    assert sum(step.reward for step in trajectory.steps) == trajectory.reward == 1.0


def test_demonstration_in_the_papers_shape() -> None:
    record = {
        "id": "game_1",
        "conversations": [
            {"from": "human", "value": "Interact with a household."},
            {"from": "gpt", "value": "OK"},
            {"from": "human", "value": "Your task is to: look."},
            {"from": "gpt", "value": "Thought: look\nAction: look"},
            {"from": "human", "value": "Observation: nothing"},
            {"from": "gpt", "value": "Thought: done\nAction: stop"},
            {"from": "human", "value": "Observation: end"},
        ],
    }
    trajectory = f.read_demonstration(record)
    assert [m.train for m in trajectory.messages] == [False, False, False, True, False, True]
    assert [s.action for s in trajectory.steps] == ["look", "stop"]
    assert trajectory.steps[0].observation == "Observation: nothing"


@pytest.mark.parametrize(
    "record",
    [
        None,
        {},
        {"conversations": None},
        {"conversations": [{"from": "robot", "value": "x"}]},
        {"messages": [{"role": "user", "content": 3}]},
        {"messages": [{"role": "user", "content": "x"}]},
        {"messages": ["x"]},
    ],
)
def test_bad_demonstrations_are_refused(record: Any) -> None:
    with pytest.raises(DataError):
        f.read_demonstration(record)


def test_bad_pairs_are_refused() -> None:
    record: Any
    user, gpt = {"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}
    for record in (
        [],
        {"prompt": [user], "chosen": [gpt]},
        {"prompt": [user], "chosen": [user], "rejected": [gpt]},
        {"prompt": [user], "chosen": [gpt], "rejected": []},
    ):
        with pytest.raises(DataError):
            f.read_pair(record)


def test_files(tmp_path: Path) -> None:
    write_json(tmp_path / "a" / "x.json", [{"id": "é"}])
    assert f.read_records(tmp_path / "a" / "x.json") == [{"id": "é"}]
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["x.json"]
    with JsonlFile(tmp_path / "x.jsonl") as file:
        file.append({"id": 1})
    assert f.read_records(tmp_path / "x.jsonl") == [{"id": 1}]
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    (tmp_path / "object.json").write_text("{}", encoding="utf-8")
    for name in ("bad.json", "object.json", "missing.json"):
        with pytest.raises(DataError, match=name):
            f.read_records(tmp_path / name)


@pytest.mark.parametrize(
    ("info", "told"),
    [
        (
            {"score_chosen": 0.75, "score_rejected": -1},
            {"score_chosen": 0.75, "score_rejected": -1},
        ),
        ({"score_rejected": 0}, {"score_rejected": 0}),
        ({}, {}),
    ],
)
def test_scores_of_a_pair_come_back(info: dict[str, float], told: dict[str, float]) -> None:
    sides = {name: [{"from": "gpt", "value": f"Action: {name}"}] for name in ("chosen", "rejected")}
    record = {"id": "t", "prompt": [{"from": "human", "value": "go"}], **sides, **info}
    written = f.to_paper_dpo(f.read_pair(record))
    assert {name: written[name] for name in written if name.startswith("score_")} == told
    assert f.read_pair(written) == f.read_pair(record)


def test_scores_that_contradict_the_choice_are_left_out() -> None:
    pair = PreferencePair(
        "t",
        (Message("user", "go"),),
        (Message("assistant", "Action: a", True),),
        (Message("assistant", "Action: b", True),),
        info={"chosen_reward": 0.0, "rejected_reward": 1.0},
    )
    assert f.read_pair(f.to_paper_dpo(pair)).info == {}
