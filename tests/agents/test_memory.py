from __future__ import annotations

import gc
import os
import platform
import weakref
from pathlib import Path
from typing import Any

import pytest

from eto_gym.agents import memory
from eto_gym.trainers.loops.run_folder import RunFolder

torch = pytest.importorskip("torch")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_freed_memory_is_returned_to_the_system() -> None:
    """Between tensors that live on, freed ones are kept by glibc, until it is told."""
    from eto_gym.benchmarks.meter import resident

    size = 1 << 14  # bytes: small enough for glibc to take them from its heap
    tensors = [torch.ones(size // 4) for _ in range(8000)]
    live = tensors[::16]
    del tensors
    before = resident()
    memory.return_freed_memory()
    freed = 8000 * 15 / 16 * size / 1e6
    assert before - resident() > 0.5 * freed
    assert all(bool((tensor == 1).all()) for tensor in live)


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        """musl's has no `malloc_trim`."""

    memory._malloc_trim.cache_clear()
    monkeypatch.setattr("ctypes.CDLL", lambda name: Library())
    try:
        memory.return_freed_memory()
    finally:
        memory._malloc_trim.cache_clear()


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="the system does not tell")
@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/\n", {}, None),  # no limit: the machine's
        ("0::/a/b\n", {"memory.max": "9", "a/memory.max": "7000", "a/b/memory.max": "max"}, 9),
        ("0::/of/the/host\n", {"memory.max": "5000\n"}, 5000),  # seen from a container
        (
            "4:cpu,memory:/a\n1:cpu:/\n0::/\n",
            {"memory/memory.limit_in_bytes": "8000", "memory/a/memory.limit_in_bytes": "6000"},
            6000,
        ),
        ("4:memory:/a\n", {"memory/memory.limit_in_bytes": "9223372036854771712"}, None),
    ],
)
def test_a_process_may_hold_what_the_machine_has_or_its_groups_may(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    groups: str,
    files: dict[str, str],
    limit: int | None,
) -> None:
    (tmp_path / "groups").write_text(groups)
    for name, text in files.items():
        file = tmp_path / "root" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(memory, "_GROUPS_ROOT", tmp_path / "root")
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    memory.memory_limit.cache_clear()
    try:
        assert memory.memory_limit() == (machine if limit is None else limit)
    finally:
        memory.memory_limit.cache_clear()


@pytest.mark.parametrize("small", [False, True])
def test_a_finished_stage_of_a_large_process_leaves_no_trainer_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: bool
) -> None:
    monkeypatch.setattr(memory, "HELD", 1 << 60 if small else 1)

    class Trainer:
        """Refers to itself, as transformers' does by way of its callbacks."""

        def __init__(self) -> None:
            self.own: Any = self

    kept: list[weakref.ref[Trainer]] = []

    def work(folder: Path) -> dict[str, str]:
        kept.append(weakref.ref(Trainer()))
        assert kept[0]() is not None
        return {}

    folder = RunFolder(tmp_path)
    gc.disable()
    try:
        folder.run("stage", work, settings={})
        assert (kept[0]() is not None) == small
    finally:
        gc.enable()
