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


def run_script(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(textwrap.dedent(text))
    return subprocess.run(
        [sys.executable, "script.py"], cwd=folder, capture_output=True, text=True, timeout=300
    )


def test_a_script_without_a_guard_is_not_run_again_in_its_processes(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
        import gymnasium as gym
        import eto_gym
        from eto_gym.agents import ExpertPolicy, RolloutSpec, collect, plan_episodes

        print("once")
        venv = gym.make_vec("ETO/ALFWorld-v0", num_envs=2, vectorization="process", workers=2)
        observations, infos = venv.reset(seed=0)
        print(len(observations))
        venv.close()
        ids = eto_gym.tasks("alfworld", "train").ids[:2]
        spec = RolloutSpec("ETO/ALFWorld-v0", ExpertPolicy, slots=2, workers=2)
        print(len(collect(spec, plan_episodes(ids))))
        """,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["once", "2", "2"]


NEEDED = """
    import os
    from eto_gym.processes import FollowingContext

    print("begun", flush=True)

    def answer(number):
        print(number + 1, __name__, flush=True)

    {guard}
        process = FollowingContext().Process(target=answer, args=(41,))
        process.start()
        process.join()
        print("ended", process.exitcode)
"""


def test_what_a_guarded_script_defines_is_there_in_its_processes(tmp_path: Path) -> None:
    done = run_script(tmp_path, NEEDED.format(guard='if __name__ == "__main__":'))
    assert done.stdout.split("\n")[:-1] == ["begun", "begun", "42 __mp_main__", "ended 0"]


def test_a_script_without_a_guard_whose_names_are_needed_is_told_so(tmp_path: Path) -> None:
    done = run_script(tmp_path, NEEDED.format(guard="if True:"))
    assert done.stdout.split("\n")[:-1] == ["begun", "begun", "ended 1"]
    assert "if __name__ == '__main__':" in done.stderr
