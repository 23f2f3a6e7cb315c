"""What processes that run a loop together tell each other, with threads in their place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eto_gym import DataError
from eto_gym.errors import EtoGymError
from eto_gym.trainers.loops.run_folder import FINISHED, RunFolder
from eto_gym.trainers.run import process_group
from eto_gym.trainers.run.process_group import ProcessGroup, launched
from tests.trainers.threads import together


@given(count=st.integers(1, 9), items=st.lists(st.integers()))
def test_every_item_is_dealt_to_one(count: int, items: list[int]) -> None:
    parts = [ProcessGroup(index, count).share(items) for index in range(count)]
    assert sorted(item for part in parts for item in part) == sorted(items)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_what_the_first_found_all_know() -> None:
    done: list[int] = []
    assert together(3, lambda r: r.first(lambda: done.append(r.index) or "found")) == ["found"] * 3  # type: ignore[func-returns-value]
    assert done == [0]
    assert together(3, lambda r: r.each(lambda: r.index * 10)) == [[0, 10, 20]] * 3


def test_an_error_is_raised_in_all() -> None:
    def fail(of: int, r: ProcessGroup) -> int:
        if r.index == of:
            raise KeyError("lost") if of else DataError("no data")
        return r.index

    first, *others = together(3, lambda r: r.first(lambda: fail(0, r)))
    assert isinstance(first, DataError)
    assert [str(err) for err in others] == ["the first process failed: no data"] * 2
    *rest, last = together(3, lambda r: r.each(lambda: fail(2, r)))
    assert isinstance(last, KeyError)
    assert all(isinstance(err, EtoGymError) for err in rest)
    assert [str(err) for err in rest] == ["process 2 of 3 failed: KeyError: 'lost'"] * 2


def test_what_is_not_shared_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ProcessGroup(1, 2).see(tmp_path)
    monkeypatch.setattr(process_group, "_UNSEEN", 0.15)
    with pytest.raises(EtoGymError, match=r"process 1 of 2 does not see .*absent"):
        ProcessGroup(1, 2).see(tmp_path / "absent")


def test_one_process_joins_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert launched() == ProcessGroup()
    script = (
        "import sys, eto_gym.trainers;"
        "from eto_gym.trainers.run.process_group import launched;"
        "assert launched().first(lambda: 1) == 1;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'accelerate', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"USE_FSDP": "true", "FSDP": "true"}, "fsdp_cpu_ram_efficient_loading"),
        ({"USE_DEEPSPEED": "true", "DEEPSPEED_ZERO_STAGE": "3"}, "ZeRO-3"),
    ],
)
def test_launches_in_which_nobody_can_play_are_refused(
    settings: dict[str, str], match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name, value in settings.items():
        full = "FSDP_CPU_RAM_EFFICIENT_LOADING" if name == "FSDP" else f"ACCELERATE_{name}"
        monkeypatch.setenv(full, value)
    with pytest.raises(EtoGymError, match=match):
        launched()


def pipeline(
    path: Path, r: ProcessGroup, calls: list[tuple[str, int]], *, fail: bool = False
) -> Any:
    """Run a stage of the first and one of all; one that fails comes last."""
    run = RunFolder(path, r)

    def work(name: str) -> Any:
        def inner(folder: Path) -> Any:
            calls.append((name, r.index))
            if name == "broken":
                raise DataError("broken")
            return {"name": name, "by": r.index}

        return inner

    first = run.run("first", work("first"), settings={"lr": 1}, by_first=True)
    everyone = run.run("all", work("all"), settings=None, inputs=(first,))
    if fail:
        run.run("broken", work("broken"), settings=None, by_first=True)
    return [(stage.result, stage.reused, stage.seconds) for stage in (first, everyone)]


def test_stages_of_the_first_and_of_all(tmp_path: Path) -> None:
    calls: list[tuple[str, int]] = []
    results = together(3, lambda r: pipeline(tmp_path, r, calls))
    assert sorted(calls) == [("all", 0), ("all", 1), ("all", 2), ("first", 0)]
    assert results[0] == results[1] == results[2]
    assert [result for result, _, _ in results[0]] == [  # type: ignore[union-attr]
        {"name": "first", "by": 0},
        {"name": "all", "by": 0},
    ]
    again = together(2, lambda r: pipeline(tmp_path, r, calls, fail=True))
    assert len(calls) == 5
    assert calls[4] == ("broken", 0)
    assert isinstance(again[0], DataError)
    assert str(again[1]) == "the first process failed: broken"
    assert len(list(tmp_path.rglob(FINISHED))) == 2
    alone = pipeline(tmp_path, ProcessGroup(), calls)
    assert [reused for _, reused, _ in alone] == [True, True]


def test_other_settings_elsewhere_are_refused(tmp_path: Path) -> None:
    def run(r: ProcessGroup) -> Any:
        return RunFolder(tmp_path, r).run("a", lambda _: 1, settings=r.index // 2, by_first=True)

    errors = together(3, run)
    assert all("run a with different settings" in str(error) for error in errors)
    assert not list((tmp_path / "stages").iterdir())
