from __future__ import annotations

import json
import stat
import subprocess
from pathlib import Path

import numpy as np
import pytest

from eto_gym import DataError
from eto_gym.files import (
    changed_since,
    expanded,
    read_object,
    write_digests,
    write_json,
    write_text,
)


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


def test_a_file_that_changed_is_named(tmp_path: Path) -> None:
    for name in ("a.bin", "b/c.bin", "times.json"):
        write_text(tmp_path / name, name)
    digests = tmp_path / "files.sha256"
    assert changed_since(digests) is None, "older versions wrote none"
    write_digests(digests, leave_out=("times.json",))
    write_text(tmp_path / "times.json", "other")
    write_text(tmp_path / "new", "new")
    assert changed_since(digests) is None
    told = subprocess.run(
        ["sha256sum", "-c", "files.sha256"], cwd=tmp_path, capture_output=True, check=True
    )
    assert told.stdout.count(b"OK") == 2
    write_text(tmp_path / "b/c.bin", "b/c.bim")
    assert changed_since(digests) == "b/c.bin"
    (tmp_path / "b/c.bin").unlink()
    assert changed_since(digests) == "b/c.bin"
    for spoilt in (b"\xff", b"no digest", b"x" * 64 + b"  a\0b\n", b"0" * 64 + b"  a.bin\n"):
        digests.write_bytes(spoilt)
        assert changed_since(digests) in ("files.sha256", "a.bin")


def test_a_large_file_is_known_by_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eto_gym.files._HASHED_UP_TO", 3)
    write_text(tmp_path / "large", "12345")
    write_digests(tmp_path / "d")
    assert (tmp_path / "d").read_text() == "size:5  large\n"
    write_text(tmp_path / "large", "1234")
    assert changed_since(tmp_path / "d") == "large"


@pytest.mark.parametrize("content", [b"", b"[1]", b"null", b"\xff", b"[" * 100_000, b'{"a": '])
def test_what_is_no_object_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.json is damaged .*: do this"):
        read_object(path, remedy="do this")


def test_a_folder_is_no_file_to_replace(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_text(tmp_path / "x", "text")
    assert caught.value.filename == str(tmp_path / "x")
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]


def test_a_home_that_there_is_not_is_one_line() -> None:
    with pytest.raises(DataError, match="cannot tell which folder ~no-such-user-here/x is"):
        expanded("~no-such-user-here/x")
    assert expanded("~") == Path.home()
