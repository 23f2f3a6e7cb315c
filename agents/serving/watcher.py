"""Runs a command until it ends or its starter does, and leaves no process of it behind.

A script of the standard library alone, because one runs beside every server: it costs a few
megabytes. Usage: `python watcher.py GRACE COMMAND...`, with a pipe for its standard input whose
other end the starter holds. The end of that pipe, or of the starter, or a SIGTERM ends the command:
with SIGTERM to its process group, and with SIGKILL after GRACE seconds. The exit status is the
command's.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time

_POLL = 1.0  # seconds; the pipe tells at once, this is for starters whose forks hold the pipe


def main(grace: float, command: list[str]) -> int:
    """Run the command; return its exit status, 128 and more for a signal."""
    starter = os.getppid()
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: told.append(number))
    signal.signal(signal.SIGCHLD, lambda *_: None)  # so that it reaches the wakeup pipe
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as err:
        sys.stderr.write(f"cannot run {command[0]}: {err}\n")
        return 127
    while child.poll() is None and not told and os.getppid() == starter:
        ready, _, _ = select.select([0, woken], [], [], _POLL)
        if woken in ready:
            os.read(woken, 4096)
        if 0 in ready and not os.read(0, 4096):
            break
    _signal_group(child.pid, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    _signal_group(child.pid, signal.SIGKILL)  # what the command itself has left, too
    status = child.wait()
    deadline = time.monotonic() + 1.0
    while _signal_group(child.pid, 0) and time.monotonic() < deadline:
        time.sleep(0.02)  # a killed process takes a moment to go
    return status if status >= 0 else 128 - status


def _signal_group(group: int, number: int) -> bool:
    """Signal a process group; return whether there is one."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
