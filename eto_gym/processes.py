"""Process and thread helpers: spawn contexts, shared endings, wake-ups."""

from __future__ import annotations

import multiprocessing
import multiprocessing.spawn
import os
import sys
import threading
import time
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

_PERIOD = 0.25  # seconds

# What a spawned process does before anything else: imports alone can take many seconds. A signal at
# the parent's death (prctl) would come when the thread ends that started the process.
_WATCH = (
    "import os, threading, time\n"
    "def watch():\n"
    "    while os.getppid() == {parent}: time.sleep({period})\n"
    "    os._exit(1)\n"
    "threading.Thread(target=watch, name='eto-gym-parent', daemon=True).start()\n"
)
_launching = threading.Lock()
_spawn: Any = multiprocessing.spawn


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


class FollowingProcess(SpawnProcess):
    """A spawned process that ends soon after its parent from its first moment on."""

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        if sys.platform == "win32":  # the number of a parent says nothing there
            return SpawnProcess._Popen(process_obj)  # type: ignore[attr-defined]
        with _launching:
            plain = _spawn.get_command_line
            _spawn.get_command_line = _watching(plain)
            try:
                return SpawnProcess._Popen(process_obj)
            finally:
                _spawn.get_command_line = plain


class FollowingContext(SpawnContext):
    """Makes processes as `multiprocessing.get_context("spawn")` does, which follow their parent."""

    Process = FollowingProcess


def _watching(plain: Any) -> Any:
    def command_line(**options: Any) -> list[str]:
        command: list[str] = plain(**options)
        if "-c" in command:  # else the program is frozen
            at = command.index("-c") + 1
            watch = _WATCH.format(parent=os.getpid(), period=_PERIOD)
            command[at] = watch + command[at].replace("; ", "\n")
        return command

    return command_line


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
