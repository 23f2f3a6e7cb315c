"""Processes that follow their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from eto_gym.processes import FollowingContext

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes have parents here only")

SLOW = """
    import os, time
    from pathlib import Path

    def work():
        pass

    if "SLOW" in os.environ:  # the child, and not its parent
        Path("child").write_text(str(os.getpid()))
        time.sleep(120)
"""
PARENT = """
    import os, sys, time
    import slow
    from eto_gym.processes import FollowingContext

    if __name__ == "__main__":
        os.environ["SLOW"] = "1"
        FollowingContext().Process(target=slow.work, daemon=True).start()
        time.sleep(120)
"""


def wait_for(condition: Callable[[], object], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def is_running(number: int) -> bool:
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc")
def test_a_worker_that_still_imports_ends_with_its_parent(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(textwrap.dedent(SLOW))
    (tmp_path / "parent.py").write_text(textwrap.dedent(PARENT))
    path = os.pathsep.join([str(Path(__file__).parents[1]), str(tmp_path)])
    with subprocess.Popen(
        [sys.executable, "parent.py"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}
    ) as parent:
        try:
            note = tmp_path / "child"
            assert wait_for(lambda: note.exists() and note.read_text(), 100)
            child = int(note.read_text())
            assert is_running(child)
        finally:
            parent.send_signal(signal.SIGKILL)
            parent.wait()
        assert wait_for(lambda: not is_running(child), 60), "it outlives its parent"


def double(number: int) -> None:
    sys.exit(2 * number)


def test_a_following_process_works_as_any_other() -> None:
    process = FollowingContext().Process(target=double, args=(21,))
    process.start()
    process.join(100)
    assert process.exitcode == 42
