"""Nothing of a file is lost without a word."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eto_gym import DataError
from eto_gym.trajectories.text_files import read_text, split_lines
from tests.trajectories.records import lines, read, records, write

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


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-32-be"]
)
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
