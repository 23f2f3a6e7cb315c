from __future__ import annotations

import json
import stat
from pathlib import Path

import numpy as np
import pytest

from eto_gym.files import write_json, write_text


def test_a_file_appears_whole_in_new_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    write_json(path, {"name": "é", "items": [1, 2]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"name": "é", "items": [1, 2]}
    assert [p.name for p in path.parent.iterdir()] == ["b.json"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "a half \ud800")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_a_value_that_is_not_json_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, [1])
    with pytest.raises(TypeError):
        write_json(path, [object()])
    assert json.loads(path.read_text()) == [1]


def test_what_json_does_not_know_becomes_null(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    nan, inf = float("nan"), float("inf")
    write_json(path, {"mean": 0.5, "low": -inf, "rows": [(nan, 1), {"high": inf}], "n": np.nan})

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    read = json.loads(path.read_text(), parse_constant=refuse)
    assert read == {"mean": 0.5, "low": None, "rows": [[None, 1], {"high": None}], "n": None}


def test_others_may_read_what_the_umask_allows(tmp_path: Path) -> None:
    ours, plain = tmp_path / "ours", tmp_path / "plain"
    write_text(ours, "x")
    plain.write_text("x")
    assert stat.S_IMODE(ours.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
