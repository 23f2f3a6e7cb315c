"""A sign of life between the processes of several machines.

A process that ends closes its connections, and those that wait for it learn of that at once. A
machine that loses its power or its network closes nothing: the others would wait for as long as a
rollout may take, which is a week.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Protocol

logger = logging.getLogger(__name__)

SILENT = 300.0
"""Seconds without a sign of life until a machine counts as gone; one may be busy, and slow."""

_PERIOD = 10.0
_KEY = "eto-gym/alive/{}"
_BYE = b"bye"


class Store(Protocol):
    """What is used of `torch.distributed.Store`."""

    def set(self, key: str, value: str) -> Any:
        """Store a value."""
        ...

    def get(self, key: str) -> bytes:
        """Return a value, which is there."""
        ...

    def check(self, keys: list[str]) -> bool:
        """Whether all of them are there."""
        ...


class Heartbeat:
    """Tells of this process, and listens to others: the first to all, and they to the first."""

    def __init__(
        self, store: Store, index: int, count: int, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin; `beat` does the work.

        Args:
            store: Where the signs are left; the machine of the first process has it.
            index: Number of this process.
            count: Number of processes.
            now: The clock, in seconds.
        """
        self._store, self._index, self._now = store, index, now
        self._beats = 0
        others = range(1, count) if index == 0 else range(1)
        self._heard = {other: (b"", now()) for other in others}

    def beat(self) -> str | None:
        """Give a sign of life and look for those of others; return who is gone, if anybody is.

        Raises:
            ConnectionError: Whoever has the store has closed it. What waits for them knows.
        """
        from torch.distributed import DistNetworkError, DistStoreError

        self._beats += 1
        try:
            self._store.set(_KEY.format(self._index), str(self._beats))
            for other, (before, _) in list(self._heard.items()):
                key = _KEY.format(other)
                sign = self._store.get(key) if self._store.check([key]) else b""
                if sign == _BYE:
                    del self._heard[other]
                elif sign != before:
                    self._heard[other] = (sign, self._now())
        except DistNetworkError as err:
            raise ConnectionError(str(err)) from err
        except DistStoreError:
            logger.debug("no answer of the store", exc_info=True)  # which is a silence, too
        for other, (_, at) in self._heard.items():
            if (silence := self._now() - at) > SILENT:
                return (
                    f"process {other} has given no sign of life for {silence:.0f} s: its machine, "
                    "or the network to it, is gone. Start the same command again to go on"
                )
        return None

    def end(self) -> None:
        """Tell that this process ends as it should."""
        with contextlib.suppress(Exception):  # whoever could be told is gone
            self._store.set(_KEY.format(self._index), _BYE.decode())


def watch_machines(index: int, count: int) -> None:
    """End this process where another one's machine is gone; nothing to do on a single machine.

    Args:
        index: Number of this process among those that were launched.
        count: How many were; they have joined each other.
    """
    if int(os.environ.get("LOCAL_WORLD_SIZE", count)) == count:
        return
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    store = TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        wait_for_workers=False,
        timeout=timedelta(seconds=30),
    )
    heartbeat = Heartbeat(store, index, count)
    over = threading.Event()

    def watch() -> None:
        try:
            while not over.wait(_PERIOD):
                if gone := heartbeat.beat():
                    logger.error("%s", gone)
                    os._exit(1)
        except ConnectionError as err:
            logger.debug("no more signs of life: %s", err)

    def end() -> None:
        over.set()
        heartbeat.end()

    threading.Thread(target=watch, name="eto-gym-heartbeat", daemon=True).start()
    atexit.register(end)
