"""A process that measures, told what by its parent, which ends it when its time is over."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Protocol

from eto_gym.benchmarks.gpu.plan import Job, Shapes


class Measures(Protocol):
    """Whoever does jobs."""

    def do(self, job: Job, seconds: float) -> dict[str, Any]:
        """Return what was found, within these seconds; with "error", why nothing was."""


class Here:
    """Does jobs in this process, however long they take."""

    def __init__(self, shapes: Shapes, scratch: Path) -> None:
        """Use a folder that the jobs share."""
        self._shapes = shapes
        self._scratch = scratch

    def do(self, job: Job, seconds: float) -> dict[str, Any]:
        """Return what was found."""
        from eto_gym.benchmarks.gpu.jobs import measure

        return measure(job, self._shapes, self._scratch)


class Worker:
    """Does jobs in a process that lives as long as nothing goes wrong in it.

    A job that dies or takes too long costs the process, and the next job starts another: the
    imports are paid once, and no job can take another's result with it.
    """

    def __init__(self, shapes: Shapes, log: Path, *, command: list[str] | None = None) -> None:
        """Start nothing yet.

        Args:
            shapes: How large the measurements are.
            log: File that is given what the process prints.
            command: What is started; the descriptor for answers and the shapes are added.
        """
        self._shapes = json.dumps(dataclasses.asdict(shapes))
        self._log = log
        self._command = command or [sys.executable, "-m", "eto_gym.benchmarks.gpu.jobs"]
        self._process: subprocess.Popen[bytes] | None = None
        self._answers = -1

    def do(self, job: Job, seconds: float) -> dict[str, Any]:
        """Return what was found, within these seconds; with "error", why nothing was."""
        deadline = time.monotonic() + seconds
        process = self._process or self._start()
        assert process.stdin is not None
        line = json.dumps(dataclasses.asdict(job)) + "\n"
        with contextlib.suppress(BrokenPipeError):  # it died: its answers have ended
            process.stdin.write(line.encode())
            process.stdin.flush()
        answer = b""
        while not answer.endswith(b"\n"):
            ready, _, _ = select.select(
                [self._answers], [], [], max(0, deadline - time.monotonic())
            )
            if not ready:
                self.close()
                return {"error": f"cut after {seconds:.0f} s, when its part's time was over"}
            piece = os.read(self._answers, 1 << 16)
            if not piece:
                code = process.wait()
                self.close()
                return {"error": f"its process ended with {code}; {self._log} tells more"}
            answer += piece
        found: dict[str, Any] = json.loads(answer)
        if found.pop("over", False):
            self.close()
        return found

    def close(self) -> None:
        """End the process and all that it started."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        os.close(self._answers)

    def _start(self) -> subprocess.Popen[bytes]:
        self._answers, theirs = os.pipe()
        try:
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    [*self._command, str(theirs), self._shapes],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    pass_fds=[theirs],
                    start_new_session=True,
                )
        finally:
            os.close(theirs)
        return self._process
