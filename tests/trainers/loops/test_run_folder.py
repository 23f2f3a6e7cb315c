"""Stages run once, resume, and depend on what they read."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from eto_gym import DataError
from eto_gym.files import DIGESTS_FILE, write_digests, write_text
from eto_gym.trainers.loops.run_folder import FINISHED, RunFolder, Stage
from tests.trainers.processes import fork_one


def pipeline(path: Path, calls: list[str], *, lr: float = 1.0, fail: bool = False) -> RunFolder:
    run = RunFolder(path)

    def work(name: str) -> Any:
        def inner(folder: Path) -> Any:
            calls.append(name)
            (folder / "partial").touch()
            if fail and name == "b":
                raise KeyboardInterrupt
            return {"name": name}

        return inner

    a = run.run("a", work("a"), settings={"lr": lr})
    b = run.run("b", work("b"), settings=None, inputs=(a,))
    run.run("c", work("c"), settings=None)
    assert b.result == {"name": "b"}
    return run


def test_finished_stages_are_not_repeated(tmp_path: Path) -> None:
    calls: list[str] = []
    pipeline(tmp_path, calls)
    run = pipeline(tmp_path, calls)
    assert calls == ["a", "b", "c"]
    assert all(stage.reused for stage in run.stages)


def test_an_interrupted_stage_resumes_in_its_folder(tmp_path: Path) -> None:
    calls: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        pipeline(tmp_path, calls, fail=True)
    assert [p.name[0] for p in tmp_path.rglob(FINISHED) for p in [p.parent]] == ["a"]
    run = pipeline(tmp_path, calls)
    assert calls == ["a", "b", "b", "c"]
    assert [stage.reused for stage in run.stages] == [True, False, False]
    assert len(list(tmp_path.rglob("partial"))) == 3


def test_what_a_killed_process_was_writing_is_removed(tmp_path: Path) -> None:
    def die_writing(folder: Path) -> None:
        write = partial(os.kill, os.getpid(), signal.SIGKILL)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "replace", lambda *_: write())
            write_text(folder / "a.txt", "half of it")

    def work(folder: Path) -> None:
        write_text(folder / "a.txt", "all of it")

    def run(how: Callable[[Path], None]) -> None:
        RunFolder(tmp_path).run("a", how, settings=None)

    assert fork_one(run, die_writing) == -signal.SIGKILL
    assert len(list(tmp_path.glob("stages/a-*/.*.partial"))) == 1
    run(work)
    (stage,) = tmp_path.glob("stages/a-*")
    assert "partial" not in (stage / DIGESTS_FILE).read_text()
    assert not list(tmp_path.rglob(".*"))


def test_a_changed_setting_redoes_what_depends_on_it(tmp_path: Path) -> None:
    calls: list[str] = []
    pipeline(tmp_path, calls)
    pipeline(tmp_path, calls, lr=2.0)
    assert calls == ["a", "b", "c", "a", "b"]


@pytest.mark.parametrize(
    "content",
    [b"", b"[1]", b"null", b"\xff\xfe", b"{}", b'{"result": 1, "seconds": "x"}', b"[" * 100_000],
)
def test_a_marker_of_another_kind_is_named(tmp_path: Path, content: bytes) -> None:
    pipeline(tmp_path, [])
    (marker,) = tmp_path.glob(f"stages/a-*/{FINISHED}")
    marker.write_bytes(content)
    with pytest.raises(DataError, match=r"finished\.json is damaged .*delete .*a-.* to redo it"):
        pipeline(tmp_path, [])


def test_a_stages_damaged_model_is_named(tmp_path: Path) -> None:
    pipeline(tmp_path, [])
    (stage,) = tmp_path.glob("stages/a-*")
    write_text(stage / "model" / "config.json", "{}")
    write_digests(stage / "model" / DIGESTS_FILE)
    pipeline(tmp_path, [])
    write_text(stage / "model" / "config.json", "{ }")
    with pytest.raises(DataError, match=r"model/config\.json is not as it was written: delete"):
        pipeline(tmp_path, [])


def test_a_stages_damaged_file_is_named(tmp_path: Path) -> None:
    def work(folder: Path) -> dict[str, float]:
        write_text(folder / "episodes.jsonl", "one\ntwo\n")
        return {"episodes": 2, "undefined": math.nan}

    def run() -> Stage:
        return RunFolder(tmp_path).run("play", work, settings=1)

    assert not run().reused
    assert run().reused
    (folder,) = tmp_path.glob("stages/play-*")
    marker = folder / FINISHED
    whole = marker.read_text(encoding="utf-8")
    write_text(marker, whole.replace('"episodes": 2', '"episodes": 3'))
    with pytest.raises(DataError, match=r"finished\.json is not as it was written: delete"):
        run()
    write_text(marker, whole)
    write_text(folder / "episodes.jsonl", "one\n")
    with pytest.raises(DataError, match=r"episodes\.jsonl is not as it was written: delete"):
        run()


def test_damaged_times_of_attempts_cost_no_run(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        pipeline(tmp_path, [], fail=True)
    (attempts,) = tmp_path.glob("stages/b-*/attempts.jsonl")
    attempts.write_text('[]\n{"seconds": "x"}\n{"seconds": NaN}\nx\n', encoding="utf-8")
    assert pipeline(tmp_path, []).stages[1].seconds < 60


def test_a_damaged_marker_is_named(tmp_path: Path) -> None:
    pipeline(tmp_path, [])
    marker = sorted(tmp_path.rglob(FINISHED))[0]
    marker.write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="delete"):
        pipeline(tmp_path, [])
