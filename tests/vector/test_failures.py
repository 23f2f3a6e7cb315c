"""Environments that raise and workers that die cost their episodes, and nothing else."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from eto_gym.errors import EngineError, UnknownNameError
from eto_gym.vector import TextVectorEnv
from eto_gym.vector.worker import MAX_DEATHS
from tests.vector.support import FRAGILE, FragileEnv

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")

OPTIONS = {"task": [f"door-{i % 4}/{i}" for i in range(4)]}
START = tuple(f"You are at door 0.\nYour task is to: open door {i}." for i in range(4))


@pytest.fixture
def vec(request: pytest.FixtureRequest) -> Iterator[TextVectorEnv]:
    """Four corridors in two workers."""
    mode = getattr(request, "param", AutoresetMode.NEXT_STEP)
    vec = TextVectorEnv(FRAGILE, 4, vectorization="process", workers=2, autoreset_mode=mode)
    yield vec
    vec.close()


def pids(vec: TextVectorEnv) -> list[int]:
    return list(dict.fromkeys(vec.call("pid")))


def wait_for_end(pid: int) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            status = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return
        if status.rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.02)
    raise AssertionError(f"process {pid} is still running")


@pytest.mark.parametrize("vec", list(AutoresetMode), indirect=True)
def test_a_killed_worker_costs_its_episodes_and_is_replaced(vec: TextVectorEnv) -> None:
    mode = vec.autoreset_mode
    assert vec.reset(seed=0, options=OPTIONS)[0] == START
    before = pids(vec)
    observations, rewards, terminated, truncated, infos = vec.step(("die", "go", "go", "go"))
    assert truncated.tolist() == [True, True, False, False]
    assert not terminated.any()
    assert rewards.tolist() == [0.0] * 4
    assert observations[2:] == ("You are at door 1.",) * 2
    lost = infos["final_info"] if mode is AutoresetMode.SAME_STEP else infos
    assert lost["_error"].tolist() == [True, True, False, False]
    assert lost["error"].tolist() == ["environment", "worker", None, None]
    assert "died (exit code -9)" in lost["error_detail"][0]
    assert lost["task_id"][:2].tolist() == OPTIONS["task"][:2]
    assert lost["score"][:2].tolist() == [0.0, 0.0]
    if mode is AutoresetMode.SAME_STEP:
        assert infos["final_obs"].tolist() == ["", "", None, None]
        assert all(text.startswith("You are at door 0.") for text in observations[:2])
    else:
        assert observations[:2] == ("", "")
    if mode is AutoresetMode.DISABLED:
        mask = np.array([True, True, False, False])
        observations, _ = vec.reset(options={"reset_mask": mask})
    elif mode is AutoresetMode.NEXT_STEP:
        observations, rewards, terminated, truncated, infos = vec.step(("go",) * 4)
        assert not truncated.any()
        assert observations[2] == "You are at door 2."
    assert all(text.startswith("You are at door 0.") for text in observations[:2])
    after = pids(vec)
    assert after[0] != before[0]
    assert after[1] == before[1]
    assert vec.step(("go",) * 4)[0][:2] == ("You are at door 1.",) * 2


@needs_proc
def test_a_worker_killed_between_steps(vec: TextVectorEnv) -> None:
    vec.reset(seed=0, options=OPTIONS)
    first, second = pids(vec)
    os.kill(first, signal.SIGKILL)
    wait_for_end(first)
    # The other slot of the worker tells of its loss when it is stepped, not before.
    assert [r.truncated for r in vec.step_slots([1, 2], ["go", "go"])] == [True, False]
    assert [r.truncated for r in vec.step_slots([0], ["go"])] == [True]
    assert [r.was_reset for r in vec.step_slots([0, 1], ["go", "go"])] == [True, True]
    # A reset has nothing to lose: it is done by the replacement, whenever the death is noticed.
    os.kill(second, signal.SIGKILL)
    observations, _ = vec.reset(seed=0, options=OPTIONS)
    assert observations == START
    with pytest.raises(UnknownNameError, match="expected task"):
        vec.reset(options={"task": "door-1/99"})
    assert vec.reset(seed=0, options=OPTIONS)[0] == START


def test_tasks_after_a_death_depend_on_the_seed() -> None:
    drawn = []
    for _ in range(2):
        vec = TextVectorEnv(FRAGILE, 1, vectorization="process", workers=1, tasks=20)
        vec.reset(seed=6)
        vec.step(("die",))
        drawn.append([vec.step((action,))[4]["task_id"][0] for action in ("go", "open", "go")])
        vec.close()
    assert drawn[0] == drawn[1]


def test_a_worker_that_takes_too_long() -> None:
    vec = TextVectorEnv(FRAGILE, 2, vectorization="process", workers=2, worker_timeout=5.0)
    vec.reset(seed=0, options={"task": ["door-0/0", "door-1/1"]})
    start = time.monotonic()
    *_, truncated, infos = vec.step(("sleep", "go"))
    assert time.monotonic() - start < 30
    assert truncated.tolist() == [True, False]
    assert infos["error"].tolist() == ["timeout", None]
    vec.close()


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_an_environment_that_raises_is_replaced(mode: AutoresetMode) -> None:
    vec = TextVectorEnv(FRAGILE, 2, autoreset_mode=mode)
    vec.reset(seed=0, options={"task": ["door-0/0", "door-1/1"]})
    envs = vec.envs
    *_, truncated, infos = vec.step(("go", "raise"))
    assert truncated.tolist() == [False, True]
    lost = infos["final_info"] if mode is AutoresetMode.SAME_STEP else infos
    assert lost["error_detail"][1] == "RuntimeError: the floor gave way"
    assert vec.envs[0] is envs[0]
    assert vec.envs[1] is not envs[1]
    if mode is AutoresetMode.DISABLED:
        vec.reset(options={"reset_mask": np.array([False, True])})
    if mode is AutoresetMode.NEXT_STEP:
        vec.step(("go", "go"))
    assert vec.step(("go", "go"))[0][1] == "You are at door 1."
    vec.close()


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_a_reset_that_fails(mode: AutoresetMode) -> None:
    vec = TextVectorEnv(FRAGILE, 2, autoreset_mode=mode)
    vec.reset(seed=0)
    with pytest.raises(EngineError, match="environment 1 could not be reset: RuntimeError: there"):
        vec.reset(options={"task": ["door-0/0", "door-3/23"]})
    (result,) = vec.reset_slots([1], options={"task": "door-3/23"})
    assert result.truncated
    assert result.info["error"] == "environment"
    (result,) = vec.step_slots([1], ["go"])
    assert result.was_reset
    assert result.observation.startswith("You are at door 0.")
    # Where there was a step to report, it says that there is no episode.
    assert result.truncated == (mode is AutoresetMode.SAME_STEP)
    (result,) = vec.step_slots([1], ["go"])
    assert result.observation == "You are at door 1."
    vec.close()


def test_an_episode_whose_end_is_followed_by_a_failing_reset_counts() -> None:
    vec = TextVectorEnv(FRAGILE, 1, autoreset_mode="SameStep", tasks=24)
    # Seeds are tried until the task after the first is the one that cannot be started.
    for seed in range(200):
        env = vec.envs[0].unwrapped
        env.reset(seed=seed, options={"task": "door-0/0"})
        if int(env.np_random.integers(24)) == 23:
            break
    vec.reset_slots([0], seed=[seed], options={"task": "door-0/0"})
    (result,) = vec.step_slots([0], ["open"])
    assert (result.reward, result.terminated) == (1.0, True)
    assert result.final is not None
    assert result.final[0] == "Well done."
    assert "error" not in result.outcome
    vec.close()


def test_an_info_that_cannot_be_sent_is_the_callers_to_see(vec: TextVectorEnv) -> None:
    vec.reset(seed=0)
    with pytest.raises(EngineError, match="cannot leave the worker process"):
        vec.step(("lock", "go", "go", "go"))


def test_a_worker_that_cannot_make_its_environments() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'doors'"):
        TextVectorEnv(FRAGILE, 2, vectorization="process", workers=1, doors=3)
    assert not multiprocessing.active_children()


@needs_proc
def test_nothing_is_left_running(vec: TextVectorEnv) -> None:
    vec.reset(seed=0)
    first, second = pids(vec)
    vec.close()
    vec.close()
    wait_for_end(first)
    wait_for_end(second)
    # A parent that is killed has no chance to stop its workers.
    script = (
        "from eto_gym.vector import TextVectorEnv\n"
        "if __name__ == '__main__':\n"
        "    vec = TextVectorEnv('tests.vector.support:Fragile-v0', 2, vectorization='process',\n"
        "                        workers=1)\n"
        "    vec.reset(seed=0)\n"
        "    print(*vec.call('pid'), flush=True)\n"
        "    input()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    command: list[Any] = [sys.executable, "-c", script]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline().split()[0])
        parent.kill()
    wait_for_end(pid)


def test_an_environment_that_cannot_be_made_anew_is_tried_again() -> None:
    made: list[FragileEnv] = []

    def make() -> FragileEnv:
        if len(made) == 1:
            made.append(made[0])  # only once
            raise OSError("no memory")
        made.append(FragileEnv(max_episode_steps=8))
        return made[-1]

    vec = TextVectorEnv(make, 1, autoreset_mode="Disabled")
    vec.reset(options={"task": "door-1/1"})
    (result,) = vec.step_slots([0], ["raise"])
    assert "no memory" in result.info["error_detail"]
    vec.reset(options={"task": "door-1/1"})
    assert [r.truncated for r in vec.step_slots([0], ["raise"])] == [True]
    assert vec.envs[0] is made[-1] is not made[0]
    vec.close()


def test_workers_may_die_of_steps_as_often_as_they_like() -> None:
    vec = TextVectorEnv(FRAGILE, 1, vectorization="process", workers=1, autoreset_mode="Disabled")
    for _ in range(MAX_DEATHS + 1):
        vec.reset(options={"task": "door-1/1"})
        (result,) = vec.step_slots([0], ["die"])
        assert result.info["error"] == "environment"
    vec.close()


def test_an_interrupted_call_leaves_no_answer_for_the_next(vec: TextVectorEnv) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    vec.reset(options=OPTIONS)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            vec.call("nap", 1.0)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert all(isinstance(pid, int) for pid in vec.call("pid"))
    *_, truncated, _ = vec.step(["go"] * 4)
    assert truncated.tolist() == [True, True, False, False], "the worker that was waited for"
