"""Files as people have them: each is read with the meaning that it states, or refused by name."""

from __future__ import annotations

import codecs
import copy
import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eto_gym import DataError, Message
from eto_gym.trajectories import PreferencePair, Trajectory
from eto_gym.trajectories import formats as f
from eto_gym.trajectories.demonstrations import read_demonstration
from eto_gym.trajectories.text_files import read_text, split_lines
from eto_gym.trajectories.turns import Notes


def talk(n: int, *, speaker: str = "from", words: str = "value") -> list[dict[str, Any]]:
    """Return the turns of an episode: an acknowledgement, then two replies with actions."""
    told = [
        ("human", "You keep a lighthouse. Reply with an action."),
        ("gpt", "Understood."),
        ("human", f"The lamp is out. Task {n}"),
        ("gpt", "Thought: fuel first\nAction: fill lamp"),
        ("human", "Observation: it is full"),
        ("gpt", f"Thought: now light it\nAction: light lamp {n}"),
    ]
    names = {"human": "user", "gpt": "assistant"} if speaker == "role" else {}
    return [{speaker: names.get(who, who), words: text} for who, text in told]


def records(count: int = 3) -> list[Any]:
    return [{"id": f"t{n}", "conversations": talk(n)} for n in range(count)]


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def lines(items: list[Any], end: str = "\n") -> str:
    return "".join(json.dumps(item) + end for item in items)


def read(path: Path) -> tuple[list[Trajectory], f.ReadReport]:
    report = f.ReadReport()
    items, skipped = f.read_demonstrations(path, report=report)
    assert skipped == [number for number, _ in report.skipped]
    assert len(items) + len(skipped) == report.records
    return items, report


@pytest.fixture
def plain(tmp_path: Path) -> list[Trajectory]:
    return read(write(tmp_path / "plain.json", json.dumps(records())))[0]


# --- containers and encodings --------------------------------------------------------------------

_LIST, _LINES = json.dumps(records()), lines(records())
CONTAINERS: dict[str, str | bytes] = {
    "list.json": _LIST,
    "lines.jsonl": _LINES,
    "lines.JSONL": _LINES,
    "lines.ndjson": _LINES,
    "lines.json": _LINES,
    "lines.txt": _LINES,
    "list.jsonl": _LIST,
    "pretty.jsonl": json.dumps(records(), indent=1),
    "one-record-a-line.json": "[\n" + ",\n".join(map(json.dumps, records())) + "\n]\n",
    "pretty-objects.json": "\n".join(json.dumps(item, indent=2) for item in records()),
    "no-newline.jsonl": _LINES[:-1],
    "crlf.jsonl": lines(records(), "\r\n"),
    "cr.jsonl": lines(records(), "\r"),
    "blank-lines.jsonl": "\n\n" + _LINES.replace("\n", "\n \n"),
    "bom.json": codecs.BOM_UTF8 + _LIST.encode(),
    "bom.jsonl": codecs.BOM_UTF8 + _LINES.encode(),
    "utf16.json": _LIST.encode("utf-16"),
    "utf16.jsonl": _LINES.encode("utf-16"),
    "utf16be.json": codecs.BOM_UTF16_BE + _LIST.encode("utf-16-be"),
    "utf16-without-bom.json": _LIST.encode("utf-16-le"),
    "utf32.jsonl": _LINES.encode("utf-32"),
    "lines.jsonl.gz": gzip.compress(_LINES.encode()),
    "list.json.gz": gzip.compress(_LIST.encode()),
    "two-members.jsonl": gzip.compress(lines(records()[:1]).encode())
    + gzip.compress(lines(records()[1:]).encode()),
    "wrapped.json": json.dumps({"data": records()}),
    "wrapped-with-nulls.json": json.dumps({"version": None, "records": records()}),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_content_and_not_the_name_tells_what_a_file_is(
    name: str, tmp_path: Path, plain: list[Trajectory]
) -> None:
    items, report = read(write(tmp_path / name, CONTAINERS[name]))
    assert items == plain
    assert not report.notes


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_single_record_is_a_file(end: str, tmp_path: Path, plain: list[Trajectory]) -> None:
    for name in ("one.json", "one.jsonl"):
        assert read(write(tmp_path / name, json.dumps(records(1)[0]) + end))[0] == plain[:1]


def test_separators_of_unicode_do_not_end_a_line(tmp_path: Path) -> None:
    item = records(1)[0]
    item["conversations"][2]["value"] += " a\u2028b\u2029c\x85d\x0be"
    path = write(tmp_path / "x.jsonl", json.dumps(item, ensure_ascii=False) + "\n")
    assert read(path)[0][0].messages[2].content == item["conversations"][2]["value"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        ("id,text\n1,x\n", "neither JSON nor JSON Lines: line 1 begins with 'id,text"),
        ("{", "line 1, column 2"),
        ("{}", "an object of nothing"),
        ('{"train": [{}], "test": [{}]}', "2 lists"),
        ('[{"id": 1}, {"id": 2}', "record 2: expected a comma"),
        ('[{"id": 1}] [', "follows the end"),
        ("[" * 50_000, "nested too deeply"),
        (b"PK\x03\x04....", "a zip archive"),
        (b"PAR1....", "a Parquet file"),
        (gzip.compress(b"x" * 1000, mtime=0)[:-9], "cut off"),
        (b"\x1f\x8b\x08nonsense", "gzip"),
        (codecs.BOM_UTF16_LE + b"[\x00{", "UTF-16"),
    ],
)
def test_what_is_no_such_file_is_refused_with_a_reason(
    content: str | bytes, message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "x.json", content)
    with pytest.raises(DataError, match=message) as caught:
        f.read_demonstrations(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_or_a_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path, Path("x\0y")):
        with pytest.raises(DataError):
            f.read_demonstrations(path)


# --- damaged records -----------------------------------------------------------------------------

DAMAGED = {
    "huge number": '{"id": "x", "score": ' + "9" * 5000 + "}",
    "deep": '{"id": ' + "[" * 20_000 + "]" * 20_000 + "}",
    "twice": '{"id": "a", "id": "b"}',
    "no value": '{"id": nope}',
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_record_is_skipped_with_its_number(
    name: str, tmp_path: Path, plain: list[Trajectory], caplog: pytest.LogCaptureFixture
) -> None:
    whole = [json.dumps(item) for item in records()]
    whole.insert(1, DAMAGED[name])
    for path, text in (
        (tmp_path / "x.jsonl", "\n".join(whole)),
        (tmp_path / "x.json", "[" + ", ".join(whole) + "]"),
    ):
        write(path, text)
        items, report = read(path)
        assert items == plain
        assert [number for number, _ in report.skipped] == [2]
        with pytest.raises(DataError, match=r"x\.json(l:2|: record 2)"):
            f.read_demonstrations(path, strict=True)
    assert f"{tmp_path}/x.jsonl:2: skipping a corrupt line" in caplog.text


def test_a_last_line_that_is_cut_off_is_reported(tmp_path: Path, plain: list[Trajectory]) -> None:
    path = write(tmp_path / "x.jsonl", _LINES[:-20])
    items, report = read(path)
    assert items == plain[:2]
    assert [number for number, _ in report.skipped] == [3]
    with pytest.raises(DataError, match=r"x\.jsonl:3"):
        f.read_demonstrations(path, strict=True)


def test_a_line_that_is_no_utf8_is_reported(tmp_path: Path, plain: list[Trajectory]) -> None:
    path = write(tmp_path / "x.jsonl", _LINES.encode().replace(b"Task 1", b"Task \xe9"))
    items, report = read(path)
    assert items == [plain[0], plain[2]]
    assert report.skipped == [(2, "the byte 0xe9 is no UTF-8")]


def test_a_missing_quote_does_not_swallow_records(tmp_path: Path) -> None:
    text = json.dumps(records(4)).replace('"Understood."', '"Understood.', 1)
    with pytest.raises(DataError, match="record 1"):
        f.read_demonstrations(write(tmp_path / "x.json", text))


# --- turns ---------------------------------------------------------------------------------------


def one(**changes: Any) -> Trajectory:
    return f.read_demonstration({"id": "t0", "conversations": talk(0), **changes})


def renamed(**names: str) -> list[dict[str, Any]]:
    return [{**turn, "from": names.get(turn["from"], turn["from"])} for turn in talk(0)]


SAME: dict[str, Any] = {
    "user and assistant": {"conversations": renamed(human="user", gpt="assistant")},
    "capitals": {"conversations": renamed(human="Human", gpt="GPT")},
    "chatgpt": {"conversations": renamed(gpt="chatgpt")},
    "environment": {"conversations": renamed(human="environment")},
    "observation": {"conversations": renamed(human="observation")},
    "roles under conversations": {
        "conversations": talk(0, speaker="role", words="content"),
    },
    "messages": {"conversations": None, "messages": talk(0, speaker="role", words="content")},
    "conversation": {"conversations": None, "conversation": talk(0)},
    "mixed keys": {"conversations": talk(0, speaker="role", words="value")},
    "parts": {
        "conversations": [
            {"from": t["from"], "value": [{"type": "text", "text": t["value"]}]} for t in talk(0)
        ]
    },
    "padding": {
        "conversations": [
            {**t, "role": None, "content": None, "loss": None, "tool_calls": None} for t in talk(0)
        ],
        "messages": None,
        "steps": None,
        "reward": None,
        "system": None,
    },
    "no calls": {"conversations": [{**t, "tool_calls": []} for t in talk(0)]},
    "foreign steps": {"steps": 2},
    "item_id": {"id": None, "item_id": "t0"},
    "task_id first": {"id": 17, "task_id": "t0"},
}


@pytest.mark.parametrize("name", SAME)
def test_forms_that_mean_the_same_are_read_alike(name: str) -> None:
    assert one(**SAME[name]) == one()


def test_a_system_text_is_kept() -> None:
    first = Message("system", "You are a keeper.")
    assert one(system="You are a keeper.").messages == (first, *one().messages)
    turns = [{"from": "system", "value": "You are a keeper."}, *talk(0)]
    assert one(conversations=turns) == one(system="You are a keeper.")
    with pytest.raises(DataError, match="contradict"):
        one(system="Another.", conversations=turns)


def test_observations_in_a_row_and_a_split_reply_are_joined() -> None:
    turns = talk(0)
    turns[4:5] = [
        {"from": "tool", "value": "Observation: it"},
        {"from": "human", "value": "is full"},
    ]
    turns[3:4] = [
        {"from": "gpt", "value": "Thought: fuel first"},
        {"from": "gpt", "value": "Action: fill lamp"},
    ]
    notes = Notes()
    read_one = f.read_demonstration({"id": "t0", "conversations": turns}, notes=notes)
    assert read_one.messages[3] == one().messages[3]
    assert read_one.messages[4].content == "Observation: it\nis full"
    assert len(notes) == 2


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "second reply": ({"conversations": [*talk(0), talk(0)[-1]]}, "turn 7 is a second reply"),
    "reply first": ({"conversations": talk(0)[1:]}, "turn 1 is a reply"),
    "speaker a list": ({"conversations": [{"from": ["human"], "value": "x"}]}, "turn 1.*'from'"),
    "speaker an object": ({"conversations": [{"role": {}, "content": "x"}]}, "turn 1.*'role'"),
    "unknown": ({"conversations": [{"from": "humans", "value": ""}]}, "mean 'human'"),
    "call": ({"conversations": [*talk(0)[:3], {"from": "function_call", "value": "x"}]}, "turn 4"),
    "calls": (
        {"conversations": [{"role": "assistant", "content": None, "tool_calls": [{}]}]},
        "turn 1: 'tool_calls'",
    ),
    "image": (
        {"conversations": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "turn 1.*image_url",
    ),
    "no words": ({"conversations": [{"role": "user"}]}, "turn 1: expected 'content' or 'value'"),
    "two speakers": (
        {"conversations": [{"role": "user", "from": "gpt", "value": "x"}]},
        "contradict",
    ),
    "half a weight": ({"conversations": [{**talk(0)[0], "weight": 0.5}]}, "weight"),
    "marks at odds": ({"conversations": [{**talk(0)[0], "weight": 0, "loss": True}]}, "contradict"),
    "two lists": ({"messages": talk(1)}, "contradict"),
    "reward a text": ({"reward": "high"}, "'reward'"),
    "reward no number": ({"reward": float("nan")}, "finite"),
    "huge reward": ({"reward": 10**400}, "finite"),
    "success a text": ({"success": "no"}, "'success'"),
    "id a list": ({"id": ["t0"]}, "'id'"),
    "infinite id": ({"id": float("inf")}, "'id'"),
    "no turns": ({"conversations": []}, "no assistant turn"),
    "no list": ({"conversations": "hello"}, "a list of turns"),
    "nothing trained": (
        {"conversations": [{**turn, "loss": False} for turn in talk(0)]},
        "marked not to be trained on",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_certain_is_refused_by_name(name: str, tmp_path: Path) -> None:
    changes, message = REFUSED[name]
    with pytest.raises(DataError, match=message):
        one(**changes)
    bad = {"id": "t0", "conversations": talk(0), **changes}
    items, report = read(write(tmp_path / "x.jsonl", lines([*records(2), bad])))
    assert ([item.task_id for item in items], len(report.skipped)) == (["t0", "t1"], 1)
    assert report.skipped[0][0] == 3


# --- marks, rewards, identities ------------------------------------------------------------------


@pytest.mark.parametrize(("key", "no", "yes"), [("loss", False, True), ("weight", 0, 1)])
def test_marks_decide_what_is_trained(key: str, no: Any, yes: Any) -> None:
    turns = talk(0)
    for index, mark in ((1, no), (3, no), (5, yes)):
        turns[index][key] = mark
    trajectory = one(conversations=turns)
    assert [m.train for m in trajectory.messages] == [False] * 5 + [True]
    assert [step.action for step in trajectory.steps] == ["fill lamp", "light lamp 0"]
    turns[1][key] = yes
    assert one(conversations=turns).messages[1].train


def test_marks_survive_the_exchange_forms() -> None:
    turns = talk(0)
    turns[1]["loss"], turns[3]["loss"] = True, False
    trajectory = one(conversations=turns)
    for form in (f.to_paper_sft, f.to_hf_messages):
        assert f.read_demonstration(form(trajectory)).messages == trajectory.messages
    side = (
        Message("assistant", "Action: a", False),
        Message("user", "o"),
        Message("assistant", "Action: b", True),
    )
    pair = PreferencePair("t", (Message("user", "go"),), side, side[:1])
    for write_pair in (f.to_paper_dpo, f.to_hf_preference):
        assert f.read_pair(write_pair(pair)) == pair


@pytest.mark.parametrize(
    ("fields", "reward", "success"),
    [
        ({}, 1.0, True),
        ({"reward": 0.0, "success": False}, 0.0, False),
        ({"reward": 0.7, "success": True}, 0.7, True),
        ({"reward": 0.7}, 0.7, False),
        ({"reward": 1}, 1.0, True),
        ({"success": False}, 0.0, False),
        ({"success": 1}, 1.0, True),
    ],
)
def test_rewards_and_success_are_kept(fields: Any, reward: float, success: bool) -> None:
    trajectory = one(**fields)
    assert (trajectory.reward, trajectory.success) == (reward, success)
    assert sum(step.reward for step in trajectory.steps) == reward


def test_distinct_records_stay_distinct_and_repetitions_are_counted(tmp_path: Path) -> None:
    other = {"id": "t0", "conversations": talk(5)}
    items, report = read(write(tmp_path / "x.jsonl", lines([*records(1), other, *records(1)])))
    assert [item.key for item in items] == [("t0", 0), ("t0", 1), ("t0", 2)]
    assert report.notes == {"the same as an earlier record": 1}
    for nothing in (None, ""):
        nameless = [{**item, "id": nothing} for item in records(2)]
        items, report = read(write(tmp_path / "x.jsonl", lines(nameless)))
        assert len({item.task_id for item in items}) == 2
        assert list(report.notes.values()) == [2]
    numbered = [{**item, "id": n} for n, item in enumerate(records(2))]
    assert [t.task_id for t in read(write(tmp_path / "x.json", json.dumps(numbered)))[0]] == [
        "0",
        "1",
    ]


def test_keys_that_are_not_read_are_counted(tmp_path: Path) -> None:
    items = [{**item, "tools": "[]", "source": n} for n, item in enumerate(records())]
    items[0]["conversations"][0]["name"] = "keeper"
    _, report = read(write(tmp_path / "x.json", json.dumps(items)))
    assert report.notes == {
        "the key 'tools', which is not read": 3,
        "the key 'source', which is not read": 3,
        "the key 'name' of turns, which is not read": 1,
    }
    assert len(list(report.lines())) == 3


# --- pairs ---------------------------------------------------------------------------------------

GO: list[Any] = [{"role": "user", "content": "go"}]
LOOK: list[Any] = [{"role": "assistant", "content": "Thought: a\nAction: look"}]
JUMP: list[Any] = [{"role": "assistant", "content": "Thought: b\nAction: jump"}]
EXPLICIT: dict[str, Any] = {"prompt": GO, "chosen": LOOK, "rejected": JUMP}

PAIRS: dict[str, dict[str, Any]] = {
    "texts": {"prompt": "go", "chosen": LOOK[0]["content"], "rejected": JUMP[0]["content"]},
    "prompt in the sides": {"prompt": GO, "chosen": GO + LOOK, "rejected": GO + JUMP},
    "implicit prompt": {"chosen": GO + LOOK, "rejected": GO + JUMP},
    "ultrafeedback": {"prompt": "go", "chosen": GO + LOOK, "rejected": GO + JUMP, "messages": None},
    "llama factory": {
        "conversations": [{"from": "human", "value": "go"}],
        "chosen": {"from": "gpt", "value": LOOK[0]["content"]},
        "rejected": {"from": "gpt", "value": JUMP[0]["content"]},
    },
    "padding": {**EXPLICIT, "system": None, "tools": None, "id": None, "messages": None},
}


@pytest.mark.parametrize("name", PAIRS)
def test_forms_of_pairs_that_mean_the_same_are_read_alike(name: str) -> None:
    assert f.read_pair(PAIRS[name]) == f.read_pair(EXPLICIT)


def test_scores_of_a_pair_become_rewards() -> None:
    pair = f.read_pair({**EXPLICIT, "score_chosen": 8.0, "score_rejected": 2})
    assert pair.info == {"chosen_reward": 8.0, "rejected_reward": 2.0}
    with pytest.raises(DataError, match="below"):
        f.read_pair({**EXPLICIT, "score_chosen": 1, "score_rejected": 2})


def test_a_shared_beginning_of_the_sides_ends_before_they_part() -> None:
    more = [{"role": "user", "content": "seen"}, *JUMP]
    pair = f.read_pair({"chosen": GO + LOOK + more, "rejected": GO + LOOK})
    assert [m.content for m in pair.prompt] == ["go"]
    pair = f.read_pair(
        {"chosen": GO + LOOK + more, "rejected": GO + LOOK + more[:1] + LOOK, "system": None}
    )
    assert len(pair.prompt) == 3


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({**EXPLICIT, "prompt": GO + LOOK}, "ends with a reply"),
        ({**EXPLICIT, "prompt": None}, "do not begin alike"),
        ({**EXPLICIT, "rejected": GO}, "rejected must start"),
        ({**EXPLICIT, "rejected": None}, "lacks"),
        ({**EXPLICIT, "chosen": 7}, "chosen: expected a list"),
        ({**EXPLICIT, "chosen": LOOK + JUMP}, "chosen: turn 2 is a second reply"),
        ({**EXPLICIT, "conversations": GO}, "contradict"),
        ({**EXPLICIT, "history": "last:1", "head": 0, "chosen_states": [3]}, "chosen_states"),
    ],
)
def test_pairs_that_are_not_certain_are_refused_by_name(record: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        f.read_pair(record)


# --- nothing is lost without a word ---------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = ("id", "reward", "success", "steps", "system", "messages", "task_id", "outcome", "note")


def _mutated(draw: Callable[..., Any]) -> Any:
    """Change one place of a good record into something else."""
    record = copy.deepcopy(draw(st.sampled_from(records(3))))
    turns = record["conversations"]
    kind = draw(st.sampled_from(["key", "turn", "turn key", "drop", "swap", "record"]))
    where = draw(st.integers(0, len(turns) - 1))
    if kind == "key":
        record[draw(st.sampled_from(KEYS))] = draw(JSON)
    elif kind == "turn":
        turns[where] = draw(JSON)
    elif kind == "turn key":
        key = draw(st.sampled_from(["from", "value", "loss", "weight", "role", "content", "x"]))
        turns[where][key] = draw(JSON)
    elif kind == "drop":
        del turns[where]
    elif kind == "swap":
        turns[where], turns[0] = turns[0], turns[where]
    else:
        record = draw(JSON)
    return record


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_every_record_is_read_or_reported(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    items = [*records(1), *(_mutated(data.draw) for _ in range(data.draw(st.integers(1, 4))))]
    path = tmp_path_factory.getbasetemp() / "mutated.jsonl"
    write(path, lines(items))
    taken, report = read(path)  # which asserts that all are accounted for
    assert report.records == len(items)
    reported = {number for number, _ in report.skipped}
    kept = iter(taken)
    for number, item in enumerate(items, start=1):
        if number in reported:
            continue
        trajectory = next(kept)
        for key, value in (("reward", trajectory.reward), ("success", trajectory.success)):
            if item.get(key) is not None:
                assert item[key] == value or item.get("outcome") == "error"
        marked = [
            turn
            for turn in item["conversations"]
            if turn.get("loss") in (0, False) and turn.get("loss") is not None
        ]
        trained = {m.content for m in trajectory.messages if m.train}
        assert not any(turn.get("value", turn.get("content")) in trained for turn in marked)


@given(st.lists(st.text(st.characters(codec="utf-8")), max_size=5))
def test_lines_of_any_text_come_back(texts: list[str]) -> None:
    whole = [text.replace("\n", "").replace("\r", "") for text in texts]
    assert split_lines("".join(text + "\n" for text in whole)) == whole


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_text_is_read_in_every_encoding(encoding: str, tmp_path: Path) -> None:
    text = "first é\r\nsecond 日本 😀\n"
    assert read_text(write(tmp_path / "x.txt", text.encode(encoding))) == text


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/urandom"])
def test_a_device_without_an_end_is_refused(device: str) -> None:
    if not Path(device).is_char_device():
        pytest.skip(f"there is no {device}")
    with pytest.raises(DataError, match=f"{device} is a device: expected a file"):
        read_text(device)
    assert read_text(os.devnull) == ""


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
