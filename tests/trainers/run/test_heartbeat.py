"""Signs of life between machines, told by a clock of the test."""

from __future__ import annotations

import socket
from datetime import timedelta
from typing import Any

import pytest

from eto_gym.trainers.run.heartbeat import SILENT, Heartbeat, watch_machines

distributed = pytest.importorskip("torch.distributed")


class Memory:
    """A store that all machines of a test share."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.error: Exception | None = None

    def set(self, key: str, value: str) -> None:
        if self.error is not None:
            raise self.error
        self.values[key] = value.encode()

    def get(self, key: str) -> bytes:
        return self.values[key]

    def check(self, keys: list[str]) -> bool:
        return all(key in self.values for key in keys)


class Machines:
    """Three processes, each on a machine of its own."""

    def __init__(self) -> None:
        self.time = 0.0
        self.store = Memory()
        self.all = [Heartbeat(self.store, i, 3, now=lambda: self.time) for i in range(3)]

    def go(self, seconds: float, *beating: int) -> dict[int, str]:
        """Let time pass while some give signs; return what they say of others."""
        told: dict[int, str] = {}
        for _ in range(int(seconds / 10)):
            self.time += 10
            told |= {i: gone for i in beating if (gone := self.all[i].beat()) is not None}
        return told


def test_nobody_is_missed_who_gives_signs() -> None:
    machines = Machines()
    assert machines.go(4 * SILENT, 0, 1, 2) == {}


def test_the_first_misses_any_other_and_they_miss_the_first() -> None:
    machines = Machines()
    machines.go(100, 0, 1, 2)
    assert machines.go(SILENT - 10, 0, 1) == {}
    told = machines.go(30, 0, 1)
    assert list(told) == [0]
    assert told[0].startswith("process 2 has given no sign of life for 3")
    machines = Machines()
    machines.go(100, 0, 1, 2)
    assert set(machines.go(SILENT + 20, 1, 2)) == {1, 2}


def test_one_that_has_never_been_heard_is_missed_too() -> None:
    assert list(Machines().go(SILENT + 20, 0, 1)) == [0]


def test_who_ends_as_it_should_is_not_missed() -> None:
    machines = Machines()
    machines.go(100, 0, 1, 2)
    machines.all[2].end()
    assert machines.go(3 * SILENT, 0, 1) == {}
    machines.all[0].end()
    assert machines.go(3 * SILENT, 1) == {}


def test_a_store_that_does_not_answer_is_a_silence_and_a_closed_one_is_none_of_ours() -> None:
    machines = Machines()
    machines.go(100, 0, 1, 2)
    machines.store.error = distributed.DistStoreError("timeout")
    assert machines.go(SILENT - 10, 1) == {}
    assert "process 0 has given no sign" in machines.go(20, 1)[1]
    machines.store.error = distributed.DistNetworkError("connection reset")
    with pytest.raises(ConnectionError, match="reset"):
        machines.go(10, 2)
    machines.all[2].end()  # nobody is there to be told


def test_real_stores_carry_the_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options: dict[str, Any] = {"wait_for_workers": False, "timeout": timedelta(seconds=5)}
    server = distributed.TCPStore("127.0.0.1", port, is_master=True, **options)
    client = distributed.TCPStore("127.0.0.1", port, is_master=False, **options)
    time = [0.0]
    first, second = (
        Heartbeat(store, i, 2, now=lambda: time[0]) for i, store in enumerate((server, client))
    )
    for _ in range(100):
        time[0] += 10
        assert first.beat() is None
        assert second.beat() is None
    assert first.beat() is None
    time[0] += SILENT + 10
    assert "process 1" in str(first.beat())
    second.end()
    assert first.beat() is None


def test_a_single_machine_is_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "no-such-host.invalid")
    monkeypatch.setattr("eto_gym.trainers.run.heartbeat.threading.Thread", None)
    watch_machines(0, 2)
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    watch_machines(1, 2)
