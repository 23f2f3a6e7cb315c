"""What processes and threads need of each other: to part, to end together, to be woken."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time

_PERIOD = 1.0  # seconds


def follow_parent() -> None:
    """Let this process end soon after its parent, even if that was killed outright.

    A process that waits for a message learns of its parent's end by itself; one that is at work, or
    hangs, does not.
    """
    parent = multiprocessing.parent_process()
    number = os.getppid() if parent is None else parent.pid

    def watch() -> None:
        while os.getppid() == number:
            time.sleep(_PERIOD)
        os._exit(1)

    threading.Thread(target=watch, name="eto-gym-parent", daemon=True).start()


def leave_group() -> None:
    """Let this process belong to none of the processes that were launched together.

    It inherits their names in the environment, and a library that finds these there joins in.
    """
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        os.environ.pop(name, None)


class Alarm:
    """Something to wait for together with connections, which any thread can set off."""

    def __init__(self) -> None:
        """Create an alarm that is silent."""
        self.connection, self._bell = multiprocessing.Pipe(duplex=False)
        self._lock = threading.Lock()
        self._rings = False

    def ring(self) -> None:
        """Make `connection` ready to be received from, until `stop`; too late is no error."""
        with self._lock:
            if not (self._rings or self._bell.closed):
                self._rings = True
                self._bell.send_bytes(b"!")

    def stop(self) -> None:
        """Make it silent again."""
        with self._lock:
            self.connection.recv_bytes()
            self._rings = False

    def close(self) -> None:
        """Close both ends."""
        with self._lock:
            self._bell.close()
            self.connection.close()
