"""The append-only store."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eto_gym import DataError, Message
from eto_gym.trajectories import JsonlFile, Step, Trajectory, TrajectoryStore
from eto_gym.trajectories.formats import read_demonstrations

texts = st.text() | st.sampled_from(["\ud800", "line\nbreak", "\u2028", "日本 😀"])
trajectories = st.builds(
    Trajectory,
    task_id=texts,
    task_type=texts,
    messages=st.lists(
        st.builds(Message, st.sampled_from(["system", "user", "assistant"]), texts, st.booleans()),
        max_size=4,
    ).map(tuple),
    steps=st.lists(st.builds(Step, st.none() | texts, texts, st.floats(-1, 1)), max_size=3).map(
        tuple
    ),
    outcome=st.sampled_from(["terminated", "truncated"]),
    reward=st.floats(-100, 100),
    success=st.booleans(),
    policy=texts,
    sample=st.integers(0, 9),
    usage=st.dictionaries(texts, st.integers(0, 10**9), max_size=2),
)


def simple(task_id: str) -> Trajectory:
    return Trajectory(task_id, "toy", (), (), "terminated", 1.0, True)


@given(st.lists(trajectories, max_size=4))
@settings(max_examples=50)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, items: list[Trajectory]) -> None:
    path = tmp_path_factory.mktemp("store") / "a" / "t.jsonl"
    with TrajectoryStore(path) as store:
        for item in items:
            store.add(item)
    assert TrajectoryStore(path).load(strict=True) == items


def test_a_cut_at_any_byte_loses_only_the_torn_record(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with TrajectoryStore(path) as store:
        for name in ("a", "é日"):
            store.add(simple(name))
    data = path.read_bytes()
    first = data.index(b"\n") + 1
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        whole = sum(cut >= end - 1 for end in (first, len(data)))  # without its line end, too
        assert len(TrajectoryStore(path).load(strict=True)) == whole
        with TrajectoryStore(path) as store:
            store.add(simple("next"))
        ids = [t.task_id for t in TrajectoryStore(path).load(strict=True)]
        assert ids == [*["a", "é日"][:whole], "next"]


@given(
    st.lists(st.none() | st.booleans() | st.integers() | texts | st.dictionaries(texts, texts)),
    st.integers(0, 40),
)
@settings(max_examples=100)
def test_a_cut_file_is_read_as_it_is_after_the_next_append(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any], cut: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.jsonl"
    path.unlink(missing_ok=True)
    with JsonlFile(path) as file:
        for value in values:
            file.append(value)
    data = path.read_bytes() if values else b""
    path.write_bytes(data[: max(0, len(data) - cut)])
    before = list(JsonlFile(path).read(strict=True))
    with JsonlFile(path) as file:
        file.append("next")
    assert list(JsonlFile(path).read(strict=True)) == [*before, "next"]
    assert before == values[: len(before)]


@pytest.mark.parametrize("end", ["", "\n", "\r\n", " ", "\n\n  "])
def test_a_last_line_counts_however_it_ends(tmp_path: Path, end: str) -> None:
    path = tmp_path / "t.jsonl"
    with TrajectoryStore(path) as store:
        for name in ("a", "b"):
            store.add(simple(name))
    path.write_bytes(path.read_bytes().rstrip(b"\n") + end.encode())
    assert len(TrajectoryStore(path).load(strict=True)) == 2
    assert len(read_demonstrations(path)[0]) == 2
    with TrajectoryStore(path) as store:
        store.add(simple("c"))
    assert [t.task_id for t in TrajectoryStore(path).load(strict=True)] == ["a", "b", "c"]


def test_a_last_line_that_is_damaged_is_told(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with TrajectoryStore(path) as store:
        store.add(simple("a"))
    path.write_bytes(path.read_bytes().replace(b'"a"', b'"b"').rstrip(b"\n"))
    store = TrajectoryStore(path)
    assert store.load() == []
    assert store.corrupt_lines == [1]


def test_kill_while_writing_leaves_a_valid_file(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    code = (
        "import sys\nfrom eto_gym.trajectories import JsonlFile\n"
        "file = JsonlFile(sys.argv[1])\nn = 0\n"
        "while True:\n    file.append({'n': n, 'text': 'x' * 5000})\n    n += 1\n"
        "    if n == 20: print('go', flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "go\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    numbers = [value["n"] for value in JsonlFile(path).read(strict=True)]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= 20


def test_a_full_disk_leaves_no_half_record(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    code = (
        "import sys, signal, resource\nfrom eto_gym.trajectories import JsonlFile\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "file = JsonlFile(sys.argv[1])\nfile.append('a' * 500)\n"
        "try:\n    file.append('b' * 700)\nexcept OSError:\n    sys.exit(3)\n"
    )
    assert resource.RLIMIT_FSIZE
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == 3
    assert list(JsonlFile(path).read(strict=True)) == ["a" * 500]
    assert path.read_bytes().endswith(b"\n")
    assert path.stat().st_size == 503


def test_corrupt_lines_are_counted_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with TrajectoryStore(path) as store:
        store.add(simple("a"))
        store.append({"not": "a trajectory"})
        store.add(simple("b"))
    path.write_bytes(b"{oops\n" + path.read_bytes())
    store = TrajectoryStore(path)
    assert [t.task_id for t in store.load()] == ["a", "b"]
    assert store.corrupt_lines == [1, 3]
    with pytest.raises(DataError, match=r"t\.jsonl:1"):
        store.load(strict=True)


def test_records_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(DataError, match="contradicts"):
        Trajectory("a", "b", (), (), "error", 0.0, False)
    good = simple("a").to_json()
    for change in ({"outcome": "won"}, {"extra": 1}, {"messages": [{"role": "x", "content": ""}]}):
        with pytest.raises(DataError):
            Trajectory.from_json({**good, **change})
    assert Trajectory.from_json(json.loads(json.dumps(good))) == simple("a")


def test_a_bit_that_flips_anywhere_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    whole = Trajectory(
        "task 1", "toy", (Message("assistant", "go 1"),), (Step("go 1", "You 1.", 0.5),),
        "terminated", 0.5, True, usage={"prompt_tokens": 11},
    )  # fmt: skip
    with TrajectoryStore(path) as store:
        store.add(whole)
    data = path.read_bytes()
    for bit in range(8 * (len(data) - 1)):
        spoilt = bytearray(data)
        spoilt[bit // 8] ^= 1 << bit % 8
        path.write_bytes(spoilt)
        assert TrajectoryStore(path).load() in ([], [whole]), bytes(spoilt)


def test_a_torn_record_and_the_next_one_are_not_taken_for_one(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with TrajectoryStore(path) as store:
        for name in ("a", "b"):
            store.add(simple(name))
    first, second = path.read_bytes().splitlines(keepends=True)
    same = first[: first.index(b"task_type")] + second[second.index(b"task_type") :]
    path.write_bytes(same)
    assert json.loads(same)["task_id"] == "a"
    store = TrajectoryStore(path)
    assert store.load() == []
    assert store.corrupt_lines == [1]
    with pytest.raises(DataError, match="remove its key 'digest'"):
        store.load(strict=True)


def test_records_of_other_writers_are_read(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with TrajectoryStore(path) as store:
        store.add(simple("é"))
    value = json.loads(path.read_bytes())
    spaced = json.dumps(value) + "\r\n"  # other blanks and escapes, another line end
    del value["digest"]  # as older versions wrote them
    path.write_text(spaced + json.dumps(value) + "\n", "utf-8", newline="")
    assert TrajectoryStore(path).load(strict=True) == [simple("é")] * 2


def test_lines_are_utf8_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with TrajectoryStore(path) as store:
        for name in ("a", "b", "c"):
            store.add(simple(name))
    data = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + data)
    assert len(TrajectoryStore(path).load(strict=True)) == 3
    path.write_bytes(data.decode().encode("utf-16"))
    assert TrajectoryStore(path).load() == [], "from the second on, lines look like UTF-16-BE"


@pytest.mark.parametrize(
    "change",
    [
        {"success": "no"},
        {"success": 1},
        {"reward": None},
        {"reward": "1"},
        {"reward": float("nan")},
        {"reward": True},
        {"reward": 10**400},
        {"reward": -(10**400)},
        {"usage": {"x": 10**400}},
        {"steps": [{"action": "a", "observation": "", "reward": 10**400}]},
        {
            "steps": [{"action": "a", "observation": "", "reward": 0.0}],
            "tokens": [{"kept": 0, "prompt": [1], "reply": [2], "logprobs": [-(10**400)]}],
        },
        {"task_id": ["a"]},
        {"seed": "0"},
        {"env": []},
        {"usage": {"x": "y"}},
        {"outcome": ["terminated"]},
        {"error": "none"},
        {"steps": [{"action": 1, "observation": "", "reward": 0.0}]},
        {"steps": [{"action": "a", "observation": None, "reward": 0.0}]},
        {"steps": [{"action": "a", "observation": "", "reward": float("inf")}]},
        {"steps": 3},
        {"messages": [{"role": "user", "content": "x", "train": "no"}]},
        {"messages": [[]]},
        {"history": "all"},
        {"facts": [1]},
        {"player": ["sft"]},
        {"unknown": 1},
    ],
)
def test_fields_of_the_wrong_kind_are_named(change: dict[str, object]) -> None:
    with pytest.raises(DataError):
        Trajectory.from_json({**simple("a").to_json(), **change})
