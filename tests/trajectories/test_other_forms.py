"""Forms of other projects' files, read as the plain form is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eto_gym import DataError
from eto_gym.trajectories import formats as f
from eto_gym.trajectories.demonstrations import read_demonstration
from tests.trajectories.records import lines, read, records, talk, write


def adp(n: int, **changes: Any) -> dict[str, Any]:
    """An episode in the form of the Agent Data Protocol."""
    turns: list[dict[str, Any]] = []
    for turn in talk(n):
        if turn["from"] == "gpt":
            turns.append({"class_": "message_action", "content": turn["value"]})
        else:
            source = "environment" if turns else "user"
            text = {"content": turn["value"], "source": source, "name": None}
            turns.append({"class_": "text_observation", **text})
    return {"schema_version": "1.2.0", "id": f"t{n}", "content": turns, "details": {}, **changes}


def test_the_agent_data_protocol_is_read_as_the_plain_form(tmp_path: Path) -> None:
    plain, _ = read(write(tmp_path / "plain.jsonl", lines(records())))
    told = [adp(n) for n in range(3)]
    told[1]["content"][3] |= {"description": "so be it", "reward": 0.25}
    told[1]["content"][5] |= {"reasoning_content": "nearly", "reward": 0.5, "odd": 1}
    items, report = read(write(tmp_path / "adp.jsonl", lines(told)))
    assert [item.messages for item in items] == [item.messages for item in plain]
    assert [item.task_id for item in items] == ["t0", "t1", "t2"]
    assert [(item.reward, item.success) for item in items] == [(1, True), (0.75, False), (1, True)]
    assert [item.reasoning for item in items] == [(), ("so be it", "nearly"), ()]
    assert set(report.notes) == {
        "the key 'details', which is not read",
        "the key 'odd' of steps, which is not read",
    }
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"class_": "api_action", "function": "go", "kwargs": {}}, "item 1 .* 'api_action'"),
        ({"class_": "text_observation", "content": "x", "source": "agent"}, "source 'user'"),
        ({"class_": "message_action", "content": "x", "description": 7}, "text as reasoning"),
        ({"class_": "message_action", "content": "x", "reward": "much"}, "number as 'reward'"),
    ]
    for item, words in wrong:
        with pytest.raises(DataError, match=words):
            read_demonstration(adp(1, content=[item, *adp(1)["content"]]))
    with pytest.raises(DataError, match="expected an object"):
        read_demonstration(adp(1, content=[*adp(1)["content"], 3]))


def alpaca(n: int, **changes: Any) -> dict[str, Any]:
    said = [turn["value"] for turn in talk(n)]
    asked = {"history": [said[:2], said[2:4]], "instruction": said[4], "output": said[5]}
    return {"id": f"t{n}", **asked, **changes}


def test_alpacas_form_is_read_as_the_plain_form(tmp_path: Path) -> None:
    """As LLaMA-Factory has it: several turns by `history`, and a system text."""
    plain, _ = read(write(tmp_path / "plain.jsonl", lines(records())))
    items, report = read(write(tmp_path / "a.json", json.dumps([alpaca(n) for n in range(3)])))
    assert [item.messages for item in items] == [item.messages for item in plain]
    assert not report.notes
    one = read_demonstration(
        {"instruction": "Do it.", "input": "The lamp.", "output": "Action: light", "system": "S"}
    )
    assert [(m.role, m.content) for m in one.messages] == [
        ("system", "S"),
        ("user", "Do it.\nThe lamp."),
        ("assistant", "Action: light"),
    ]
    for changes in ({"history": [["one"]]}, {"history": "x"}, {"input": 4}, {"output": None}):
        with pytest.raises(DataError, match="expected"):
            read_demonstration(alpaca(1, **changes))


def test_one_record_alone_is_a_file_too(tmp_path: Path) -> None:
    for name, record in {"adp": adp(1), "alpaca": alpaca(1)}.items():
        items, report = read(write(tmp_path / f"{name}.json", json.dumps(record)))
        assert [item.messages for item in items] == [read_demonstration(record).messages]
        assert not report.skipped


def test_pairs_of_alpaca_and_axolotl_are_the_same(tmp_path: Path) -> None:
    sides = {"chosen": "Action: yes", "rejected": "Action: no"}
    whole = {key: {"role": "assistant", "content": text} for key, text in sides.items()}
    asked = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c\nd"},
    ]
    expected = f.read_pairs(write(tmp_path / "p.jsonl", lines([{"prompt": asked, **sides}])))[0]
    alike: list[dict[str, Any]] = [
        {"instruction": "c", "input": "d", "history": [["a", "b"]], **sides},
        {"messages": asked, **whole},  # axolotl's chat_template
        {"conversations": asked, **whole},
    ]
    assert f.read_pairs(write(tmp_path / "q.jsonl", lines(alike)))[0] == expected * 3
    (intel,), _ = f.read_pairs(
        write(tmp_path / "i.jsonl", lines([{"system": "S", "question": "Q", **sides}]))
    )
    assert [(m.role, m.content) for m in intel.prompt] == [("system", "S"), ("user", "Q")]


def test_a_file_of_agentgym_keeps_its_marks(tmp_path: Path) -> None:
    turns = talk(1)
    for turn, loss in zip(turns, [None, False, None, True, None, True], strict=True):
        turn["loss"] = loss
    (item,), report = read(
        write(tmp_path / "a.json", json.dumps([{"item_id": "alfworld_7", "conversations": turns}]))
    )
    assert item.task_id == "alfworld_7"
    assert [m.train for m in item.messages] == [False, False, False, True, False, True]
    assert [step.action for step in item.steps] == ["fill lamp", "light lamp 1"]
    assert list(report.notes) == ["replies marked not to be trained on, which are not"]
