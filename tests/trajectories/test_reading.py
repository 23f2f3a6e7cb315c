"""Files as people have them: each is read with the meaning that it states, or refused by name."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import json
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eto_gym import DataError, Message
from eto_gym.trajectories import PreferencePair, Trajectory
from eto_gym.trajectories import formats as f
from eto_gym.trajectories.text_files import read_text
from eto_gym.trajectories.turns import Notes
from eto_gym.trajectories.values import read_values
from tests.growth import check_linear
from tests.trajectories.records import lines, one, read, records, talk, write


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
    "utf16be-without-bom.json": _LIST.encode("utf-16-be"),
    "utf32-without-bom.json": _LIST.encode("utf-32-le"),
    "utf32be-without-bom.jsonl": _LINES.encode("utf-32-be"),
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


@pytest.mark.parametrize("encoding", ["utf-32-le", "utf-32-be"])
def test_utf32_that_is_cut_off_is_refused_by_its_name(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path / "x.json", _LIST.encode(encoding)[:-3])
    with pytest.raises(DataError, match=f"expected text in {encoding.upper()}"):
        f.read_demonstrations(path)


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


BETWEEN = ("", "\n", "\r\n", " ", "\n\n\t")


@given(
    st.lists(
        st.sampled_from(["good", *DAMAGED])
        | st.sampled_from(
            ['{"a": [1, {"b": "}, {"}]}', '"x"', "1", "{]", '{"a": 1 2}', "[1}", "tru"]
        ),
        max_size=6,
    ),
    st.sampled_from(BETWEEN),
)
@settings(max_examples=100, deadline=None)
def test_an_item_is_read_the_same_after_a_damaged_one(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], between: str
) -> None:
    told = {**DAMAGED, "good": json.dumps(records(1)[0])}
    items = [told.get(name, name) for name in names]
    path = tmp_path_factory.getbasetemp() / "after.json"

    def outcome(texts: list[str], first: int) -> Any:
        write(path, f"[{between}{f'{between},{between}'.join(texts)}{between}]")
        try:
            found = read_values(path)
        except DataError:
            return None  # not an item alone: the list itself
        return (
            [item for item in found.values if item.number > first],
            [(n, reason.partition(": ")[2]) for n, reason in found.damaged if n > first],
        )

    alone, after = outcome(["0", *items], 1), outcome(['{"a" 0}', *items], 1)
    assert alone in (None, after)


@pytest.mark.parametrize("item", ['{"a": 1, "a": 2}', '{"a" 1}', '{"a": [1, 2}', '{"a": x}'])
@pytest.mark.parametrize("between", ["", "\n"])
def test_the_time_is_linear_whatever_is_damaged(tmp_path: Path, item: str, between: str) -> None:
    path = tmp_path / "x.json"

    def make(length: int) -> str:
        return "[" + f",{between}".join([item] * (length // len(item))) + "]"

    def work(text: str) -> None:
        path.write_text(text)
        with contextlib.suppress(DataError):
            read_values(path)

    check_linear(work, make, length=40_000)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_damaged_record_is_found_by_line_and_column(tmp_path: Path, end: str) -> None:
    bad = ['{"id": nope}', '  {"id": "a"', ' , "id": "a"}']
    path = write(
        tmp_path / "x.json",
        f",{end}".join(["[1", bad[0], "2"]) + f",{end}" + end.join(bad[1:]) + "]",
    )
    reasons = [reason for _, reason in read_values(path).damaged]
    assert reasons == ["line 2, column 8: expecting value", ANY]
    assert "twice" in reasons[1]


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


def test_a_file_of_many_gzip_members_is_read_in_linear_time(tmp_path: Path) -> None:
    member = gzip.compress(b"x\n", mtime=0)
    path = tmp_path / "many.gz"

    def read(text: str) -> None:
        path.write_bytes(member * len(text) + b"\0" * 512)  # padded, as tapes are
        assert read_text(path) == "x\n" * len(text)

    check_linear(read, "x".__mul__, 3_000)
