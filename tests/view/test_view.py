"""What the page holds, before any browser looks at it."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eto_gym.cli.main import main
from eto_gym.errors import DataError
from eto_gym.prompt import Message
from eto_gym.trajectories import Step, Trajectory, TrajectoryStore
from eto_gym.trajectories.formats import read_demonstrations
from eto_gym.view import packing, write_view
from tests.view.hostile import ATTACKS, write_hostile


def episode(number: int, **changes: Any) -> Trajectory:
    values: dict[str, Any] = {
        "task_id": f"task-{number}",
        "task_type": "coin",
        "messages": (
            Message("user", "Instruction"),
            Message("assistant", "OK."),
            Message("user", "Your task is to: take the coin."),
            Message("assistant", "Thought: easy\nAction: take", True),
            Message("user", "Observation: Nothing."),
            Message("assistant", "Thought: again\nAction: take", True),
        ),
        "steps": (Step("take", "Nothing.", 0.0), Step("take", "Taken.", 1.0)),
        "outcome": "terminated",
        "reward": 1.0,
        "success": True,
        "policy": "p",
    }
    return Trajectory(**{**values, **changes})


def write(path: Path, *episodes: Trajectory) -> Path:
    with TrajectoryStore(path) as store:
        for item in episodes:
            store.add(item)
    return path


def turns(said: str, by: str = "human") -> list[dict[str, str]]:
    return [{"from": by, "value": said}]


def unpacked(page: str, name: str) -> Any:
    match = re.search(rf'id="{name}">([^<]*)</script>', page)
    assert match is not None
    return json.loads(gzip.decompress(base64.b64decode(match.group(1))), parse_constant=refused)


def refused(constant: str) -> None:
    raise AssertionError(f"browsers do not read {constant}")


def test_an_episode_is_packed_with_its_head_turns_and_steps(tmp_path: Path) -> None:
    out = write_view([write(tmp_path / "t.jsonl", episode(0))], tmp_path / "v.html")
    page = out.read_text()
    index = unpacked(page, "index")
    columns = index["episodes"]["columns"]
    assert columns["task"] == ["task-0"]
    assert columns["goal"] == ["take the coin."]
    assert columns["repeated"] == [1]
    chunk = unpacked(page, "episodes-0")
    assert chunk["heads"] == [[["user", "Instruction"], ["assistant", "OK."]]]
    body = chunk["bodies"][0]
    assert [turn[0] for turn in body["turns"]] == ["user", "assistant", "user", "assistant"]
    assert body["turns"][1][3:] == ["easy", "take"]
    assert (body["rewards"], body["end"]) == ([0.0, 1.0], "Taken.")


def test_chunks_hold_all_episodes_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "CHUNK", 3000)
    file = write(tmp_path / "t.jsonl", *(episode(i) for i in range(50)))
    page = write_view([file], tmp_path / "v.html").read_text()
    starts = unpacked(page, "index")["starts"]["episodes"]
    assert starts[0] == 0
    assert len(starts) > 3
    sizes = [len(unpacked(page, f"episodes-{i}")["bodies"]) for i in range(len(starts))]
    assert [sum(sizes[:i]) for i in range(len(sizes))] == starts
    assert sum(sizes) == 50


def test_nothing_that_was_said_is_in_the_page_as_it_was_said(tmp_path: Path) -> None:
    page = write_view([write_hostile(tmp_path)], tmp_path / "v.html").read_text()
    assert not any(attack in page for attack in ATTACKS)
    assert page.count("<script") == page.count("</script>")
    assert "default-src 'none'" in page.replace("&#x27;", "'")
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page


def test_the_title_is_text(tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", episode(0))
    page = write_view([file], tmp_path / "v.html", title="</title><b>\u00e9").read_text()
    assert "<title>&lt;/title&gt;&lt;b&gt;&#233;</title>" in page


def test_stages_of_the_last_run_are_shown_in_its_order(tmp_path: Path) -> None:
    for key, name in (("aaa", "explore"), ("bbb", "sft"), ("ccc", "explore")):
        stage = tmp_path / "stages" / f"{name}-{key}"
        write(stage / "trajectories.jsonl", episode(0))
        (stage / "finished.json").write_text('{"seconds": 1.0}')
        os.utime(stage, (1, 1))
    report = {"stages": [{"name": "sft", "key": "bbb"}, {"name": "explore", "key": "ccc"}]}
    (tmp_path / "report.json").write_text(json.dumps(report))
    page = write_view([tmp_path], tmp_path / "v.html").read_text()
    index = unpacked(page, "index")
    assert [stage["name"] for stage in index["runs"][0]["stages"]] == ["sft", "explore"]
    assert index["episodes"]["values"]["source"] == ["sft", "explore"]
    write(tmp_path / "stages" / "eval-ddd" / "trajectories.jsonl", episode(0))
    page = write_view([tmp_path], tmp_path / "v.html").read_text()
    told = unpacked(page, "index")["runs"][0]["stages"]
    assert [(stage["name"], stage["finished"]) for stage in told] == [
        ("sft", True),
        ("explore", True),
        ("eval", False),  # begun since: the run goes on
    ]


def test_records_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", episode(0))
    with file.open("a") as more:
        more.write('{"messages": 3, "steps": []}\n{"messages"\n')
    page = write_view([file], tmp_path / "v.html").read_text()
    assert unpacked(page, "index")["skipped"] == {"t": 2}


def test_numbers_that_browsers_do_not_read_are_null(tmp_path: Path) -> None:
    record = episode(0).to_json()
    record["facts"] = [{"seconds": float("nan")}, {"seconds": float("-inf"), "more": [1.5]}]
    record["env"] = {"limit": float("inf")}
    file = tmp_path / "t.jsonl"
    file.write_text(json.dumps(record))
    page = write_view([file], tmp_path / "v.html").read_text()
    body = unpacked(page, "episodes-0")["bodies"][0]
    assert body["facts"] == [{"seconds": None}, {"seconds": None, "more": [1.5]}]
    assert body["env"] == {"limit": None}


def test_samples_of_other_tools_are_numbered_as_they_are_when_read(tmp_path: Path) -> None:
    said = [
        {"id": f"t{i % 2}", "conversations": [*turns("go"), *turns(f"Action: {i}", by="gpt")]}
        for i in range(5)
    ]
    file = tmp_path / "t.jsonl"
    file.write_text("\n".join(map(json.dumps, said)))  # no line end after the last
    page = write_view([file], tmp_path / "v.html").read_text()
    columns = unpacked(page, "index")["episodes"]["columns"]
    read = read_demonstrations(file)[0]
    assert columns["task"] == [item.task_id for item in read] == ["t0", "t1", "t0", "t1", "t0"]
    assert columns["sample"] == [item.sample for item in read] == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("as_list", [False, True])
def test_a_record_that_is_not_the_one_that_was_written_is_counted(
    as_list: bool, tmp_path: Path
) -> None:
    file = write(tmp_path / "t.jsonl", episode(0), episode(1))
    lines = file.read_text().splitlines()
    lines[1] = lines[1].replace('"seed":', '"seed":1')
    text = f"[{','.join(lines)}]" if as_list else "\n".join(lines) + "\n"
    file = file.with_suffix(".json") if as_list else file
    file.write_text(text)
    page = write_view([file], tmp_path / "v.html").read_text()
    index = unpacked(page, "index")
    assert index["skipped"] == {"t": 1}
    assert len(index["episodes"]["values"]["source"]) == 1


def test_what_cannot_be_shown_gets_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.json").write_text('[{"a": 1}]')
    with pytest.raises(DataError, match="neither trajectories nor pairs"):
        write_view([tmp_path / "x.json"], tmp_path / "v.html")
    with pytest.raises(DataError, match="nothing to show"):
        write_view([tmp_path], tmp_path / "v.html")
    assert main(["view", str(tmp_path / "none")]) == 2
    assert "there is no file or folder" in capsys.readouterr().err


def test_the_command_writes_beside_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "t.jsonl", episode(0))
    assert main(["view", str(file)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "t.html")
    assert (tmp_path / "t.html").is_file()


@pytest.mark.parametrize(
    ("name", "encode"),
    [
        ("lines.json", lambda lines: "\n".join(lines).encode()),
        ("list.jsonl", lambda lines: f"[{','.join(lines)}]".encode()),
        ("marked.json", lambda lines: f"\ufeff[{','.join(lines)}]".encode()),
        ("wide.jsonl", lambda lines: "\n".join(lines).encode("utf-16")),
        ("small.jsonl.gz", lambda lines: gzip.compress("\n".join(lines).encode())),
        ("any.txt", lambda lines: "\n".join(lines).encode()),
        ("around.json", lambda lines: f'{{"data": [{",".join(lines)}]}}'.encode()),
    ],
)
def test_a_file_that_is_named_is_read_as_other_commands_read_it(
    name: str, encode: Callable[[list[str]], bytes], tmp_path: Path
) -> None:
    file = tmp_path / name
    file.write_bytes(encode([json.dumps(episode(i).to_json()) for i in range(2)]))
    page = write_view([file], tmp_path / "v.html").read_text()
    assert unpacked(page, "index")["episodes"]["columns"]["task"] == ["task-0", "task-1"]


def test_what_is_left_out_is_told_where_the_page_is_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write(tmp_path / "t.jsonl", episode(0))
    with file.open("a") as more:
        more.write('{"messages": 3, "steps": []}\n{"messages": [')  # the last one is cut off
    (tmp_path / "cut.json").write_text('[{"messages": []}, {"mess')
    page = write_view([tmp_path], tmp_path / "v.html").read_text()
    assert unpacked(page, "index")["skipped"] == {"t": 2}
    assert f"left out: {tmp_path / 'cut.json'} is neither JSON" in caplog.text
    assert f"{file}: skipped 2 records or lines, the first: 2 (" in caplog.text


def test_links_in_a_circle_and_pipes_end_no_search(tmp_path: Path) -> None:
    write(tmp_path / "t.jsonl", episode(0))
    for name in ("here", "there"):
        (tmp_path / name).symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.jsonl")
    page = write_view([tmp_path], tmp_path / "v.html").read_text()
    assert len(unpacked(page, "index")["episodes"]["columns"]["task"]) == 1


def test_the_page_takes_the_place_of_nothing_that_it_shows(tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", episode(0))
    kept = file.read_bytes()
    for path in (file, tmp_path):
        with pytest.raises(DataError, match="name another file"):
            write_view([path], file)
    assert file.read_bytes() == kept


@pytest.mark.parametrize(
    "report",
    [
        {"stages": "abc", "policies": 5},
        {"stages": [1, {"key": ["a"]}, {}], "policies": [None, {"policy": "x"}]},
    ],
)
def test_a_report_of_another_form_is_no_end_of_the_page(report: object, tmp_path: Path) -> None:
    stage = tmp_path / "stages" / "sft-aaa"
    write(stage / "trajectories.jsonl", episode(0))
    (stage / "finished.json").write_text('{"seconds": "long"}')
    (tmp_path / "report.json").write_text(json.dumps(report))
    page = write_view([tmp_path], tmp_path / "v.html").read_text()
    (run,) = unpacked(page, "index")["runs"]
    assert all(isinstance(item, dict) for item in run["report"]["policies"])
    assert all(item["seconds"] is None for item in run["stages"])


def test_names_of_sources_are_unique(tmp_path: Path) -> None:
    for name in ("a.json", "a.jsonl", "a (2).jsonl"):
        line = json.dumps(episode(0).to_json())
        (tmp_path / name).write_text(f"[{line}]" if name == "a.json" else line)
    page = write_view([tmp_path], tmp_path / "v.html").read_text()
    assert len(unpacked(page, "index")["episodes"]["values"]["source"]) == 3
