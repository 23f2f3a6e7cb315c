"""What holds the episodes together: sharing a JVM, losing one, other processes, other threads."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from eto_gym.envs.scienceworld.lane import Lane
from eto_gym.envs.scienceworld.session import EngineSession, EngineStep
from eto_gym.envs.scienceworld.simplifications import expand

PLAN = ("open cupboard", "pick up metal pot", "teleport to greenhouse", "wait1", "look around")


def jvm_of(session: EngineSession) -> Any:
    assert session.lane is not None
    assert session.lane.jvm is not None
    return session.lane.jvm


def gone(pid: int, *, within: float = 30.0) -> bool:
    """Whether a process ends, or has become a zombie, within so many seconds."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def play(session: EngineSession, task: str, variation: int, actions: tuple[str, ...]) -> list[Any]:
    session.load(task, variation, "easy")
    record: list[Any] = [session.task_description(), session.look()]
    return record + [session.step(action) for action in actions]


def test_interleaved_episodes_equal_fresh_jvms(session: EngineSession) -> None:
    """Random numbers, ids and simplifications of one episode do not reach another."""
    jobs = [
        ("grow-plant", 3, "easy"),
        ("test-conductivity", 7, "none"),
    ]
    actions = ("look around", "wait", "inventory", "open door to hallway", "wait1", "look around")
    expected = []
    for task, variation, simplification in jobs:
        fresh = EngineSession(isolation="process")
        try:
            fresh.load(task, variation, "" if simplification == "none" else "easy")
            expected.append([fresh.step(action) for action in actions] + [fresh.valid_actions()])
        finally:
            fresh.close()
    sessions = [EngineSession(lanes=1) for _ in jobs]
    try:
        for one, (task, variation, simplification) in zip(sessions, jobs, strict=True):
            one.load(task, variation, "" if simplification == "none" else "easy")
        got: list[list[Any]] = [[] for _ in jobs]
        for action in actions:
            for i, one in enumerate(sessions):
                got[i].append(one.step(action))
                one.valid_actions()  # must not change what follows, in any of them
        for i, one in enumerate(sessions):
            got[i].append(one.valid_actions())
        assert got == expected
        assert {jvm_of(one).pid for one in sessions} == {jvm_of(session_after(session)).pid}
    finally:
        for one in sessions:
            one.close()


def session_after(session: EngineSession) -> EngineSession:
    session.load("boil", 0, "easy")
    return session


def test_threads_do_not_disturb_each_other(session: EngineSession) -> None:
    jobs = [("boil", 1), ("freeze", 2), ("find-plant", 30), ("grow-fruit", 5)]
    expected = [play(session, *job, PLAN) for job in jobs]
    got: dict[int, list[Any]] = {}

    def work(index: int) -> None:
        own = EngineSession(lanes=1)
        try:
            got[index] = play(own, *jobs[index], PLAN)
        finally:
            own.close()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [got.get(i) for i in range(len(jobs))] == expected


# A walk on which a bee flies where the next random number says.
BEE = [
    "eat orange",
    "reset task",
    "pick up picture",
    "close door",
    "teleport to workshop",
    "wait",
    "mix orange wire",
    "pour switch into hallway",
    "open freezer",
    "teleport to hallway",
    "inventory",
    "mix art studio",
    "go to door to greenhouse",
    "wait1",
    "mix jug",
    "open bee hive",
    "reset task",
    "task",
    "close door to hallway",
    "open door to hallway",
    "put down picture",
    "go to door to outside",
    "mix living thing",
]


@pytest.mark.parametrize("as_stock", [False, True])
def test_a_list_of_valid_actions_moves_the_bee_of_the_stock_api_alone(as_stock: bool) -> None:
    """The stock API asks for the valid actions after each step, which draws random numbers.

    Where nobody asks, its engine and ours agree on the bee in the flower (`server.step` of the
    stock API, in a fresh JVM with the same flags); with its leak they agree on the bee outside.
    """
    name = "identify-life-stages-2"
    where = "(in flower, in pear tree, in self watering flower pot 3, in outside)"
    for asked in (False, True):
        session = EngineSession(lanes=1, as_stock=as_stock)
        session.load(name, 9, expand("easy", name))
        for action in BEE:
            if asked:  # the stock API does at the end of its reset, too
                session.valid_actions()
            answer = session.step(action).observation
        session.close()
        bee = next(line for line in answer.splitlines() if "mix adult bee" in line)
        outside = as_stock and asked
        assert bee.partition("mix adult bee ")[2] == ("(in outside)" if outside else where)


def test_a_score_does_not_outlive_its_episode(session: EngineSession) -> None:
    session.load("find-non-living-thing", 3, "easy")
    for action in ("teleport to kitchen", "focus on soap", "move soap to orange box"):
        result = session.step(action)
    assert result.completed
    session.load("find-non-living-thing", 3, "easy")
    first = session.step("task")  # takes no part in the game
    assert (first.score, first.completed) == (0.0, False)


def run_out_of_memory(session: EngineSession) -> None:
    """Make the JVM need more memory than it may have."""
    gateway = jvm_of(session).gateway
    gateway.new_array(gateway.jvm.long, 2**30)


def test_an_episode_survives_the_deaths_of_its_jvm(
    session: EngineSession, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One JVM is killed between two steps, the next one runs out of memory within a step."""
    expected = play(session, "boil", 4, PLAN)
    own = EngineSession(isolation="process")
    step = EngineSession._raw_step
    used = []

    def raw_step(self: EngineSession, action: str) -> EngineStep:
        jvm = jvm_of(self)
        if jvm not in used:
            used.append(jvm)
        if len(used) == 2 and action == PLAN[3]:
            run_out_of_memory(self)
        return step(self, action)

    monkeypatch.setattr(EngineSession, "_raw_step", raw_step)
    try:
        own.load("boil", 4, "easy")
        got: list[Any] = [own.task_description(), own.look()]
        for i, action in enumerate(PLAN):
            if i == 2:
                os.kill(used[0].pid, signal.SIGKILL)
                assert gone(used[0].pid)
            got.append(own.step(action))
        assert got == expected
        assert len(used) == 3
        assert used[2] is jvm_of(own)
        assert "java.lang.OutOfMemoryError" in caplog.text
        assert all(gone(jvm.pid) and not jvm.folder.exists() for jvm in used[:2])
    finally:
        own.close()


def test_a_step_that_always_takes_too_much_memory_is_an_error(
    session: EngineSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eto_gym.envs.scienceworld.env import ScienceWorldEnv

    env = ScienceWorldEnv(lanes=1)
    env.reset(options={"task": "boil/0"})
    expected = play(session, "melt", 1, PLAN)
    session.load("melt", 1, "easy")
    session.step(PLAN[0])
    step = EngineSession._raw_step

    def deadly(self: EngineSession, action: str) -> EngineStep:
        if action == "explode":
            run_out_of_memory(self)
        return step(self, action)

    monkeypatch.setattr(EngineSession, "_raw_step", deadly)
    _, reward, terminated, truncated, info = env.step("explode")
    assert (reward, terminated, truncated, info["error"]) == (0.0, False, True, "environment")
    assert "OutOfMemoryError" in info["error_detail"]
    monkeypatch.undo()
    # The neighbour on the same JVM, and the next episode, are none the worse for it.
    assert [session.step(action) for action in PLAN[1:]] == expected[3:]
    env.reset(options={"task": "boil/0"})
    assert "error" not in env.step("look around")[-1]
    env.close()


def test_an_error_inside_the_engine_truncates(session: EngineSession) -> None:
    from eto_gym.envs.scienceworld.env import ScienceWorldEnv

    env = ScienceWorldEnv(lanes=1, admissible_actions=True)
    env.reset(options={"task": "boil/0"})
    inner = env._session
    assert inner.lane is not None
    agent = inner._member.agent
    inner.lane.call(inner._member, lambda: agent.setErrorState("java.lang.Error: a test"))
    *_, terminated, truncated, info = env.step("look around")
    assert (terminated, truncated, info["error"]) == (False, True, "environment")
    assert info["error_detail"] == "java.lang.Error: a test"
    assert (info["score"], info["success"]) == (0.0, False)
    assert info["admissible_actions"] == []
    env.close()


def test_a_pickled_session_goes_on_where_it_was(session: EngineSession) -> None:
    expected = play(session, "melt", 3, PLAN)
    session.load("melt", 3, "easy")
    for action in PLAN[:3]:
        session.step(action)
    copy = pickle.loads(pickle.dumps(session))  # noqa: S301
    try:
        for one in (session, copy):
            assert [one.step(action) for action in PLAN[3:]] == expected[-2:]
    finally:
        copy.close()


def _go_on(session: EngineSession, channel: Any) -> None:
    try:
        before = os.getpid()
        results = [session.step(action) for action in PLAN[3:]]
        channel.put((results, jvm_of(session).owner == before, jvm_of(session).pid))
        session.close()
    except BaseException as err:
        channel.put(repr(err))


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_child_process_goes_on_with_a_jvm_of_its_own(session: EngineSession, method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    expected = play(session, "freeze", 3, PLAN)
    session.load("freeze", 3, "easy")
    for action in PLAN[:3]:
        session.step(action)
    context: Any = multiprocessing.get_context(method)
    channel = context.Queue()
    child = context.Process(target=_go_on, args=(session, channel))
    child.start()
    answer = channel.get(timeout=200)
    child.join(60)
    assert child.exitcode == 0
    assert not isinstance(answer, str), answer
    results, own, pid = answer
    assert results == expected[-2:]
    assert own
    assert gone(pid)
    # The parent's engine has not noticed anything.
    assert [session.step(action) for action in PLAN[3:]] == expected[-2:]


_PARENT = """
import json, os, sys, time
from eto_gym.envs.scienceworld import pool
from eto_gym.envs.scienceworld.lane import Member
lane = pool.join(shared=True, lanes=1, java=None)
lane.attach(Member())
if {fork}:
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
jvm = lane.jvm
print(json.dumps([jvm.pid, str(jvm.folder)]), flush=True)
{then}
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks into /proc")
@pytest.mark.parametrize(
    ("then", "fork"),
    [
        ("time.sleep(60)", True),  # killed, while a forked child lives on
        ("os._exit(4)", False),
    ],
    ids=["killed-with-child", "exits-at-once"],
)
def test_no_jvm_or_folder_outlives_its_process(then: str, fork: bool) -> None:
    pytest.importorskip("scienceworld")
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT.format(then=then, fork=fork)],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert parent.stdout is not None
        pid, folder = json.loads(parent.stdout.readline())
        if "sleep" in then:
            parent.kill()
        parent.wait(60)
        assert gone(pid)
        deadline = time.monotonic() + 10
        while Path(folder).exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not Path(folder).exists()
    finally:
        if fork:
            os.killpg(parent.pid, signal.SIGKILL)
        parent.kill()
        parent.wait()
        if parent.stdout is not None:
            parent.stdout.close()


def test_a_forgotten_session_leaves_its_lane(session: EngineSession) -> None:
    session.load("boil", 0, "easy")
    lane = session.lane
    assert isinstance(lane, Lane)
    before = lane.members
    forgotten = EngineSession(lanes=1)
    forgotten.load("boil", 0, "easy")
    assert lane.members == before + 1
    del forgotten
    gc.collect()
    session.look()
    assert lane.members == before


def test_the_gateway_listens_on_loopback_and_wants_the_token(session: EngineSession) -> None:
    from py4j.java_gateway import GatewayParameters, JavaGateway
    from py4j.protocol import Py4JError

    session.load("boil", 0, "easy")
    parameters = jvm_of(session).gateway.gateway_parameters
    assert parameters.address == "127.0.0.1"
    stranger = JavaGateway(
        gateway_parameters=GatewayParameters(port=parameters.port, auth_token="wrong")
    )
    with pytest.raises(Py4JError):
        stranger.jvm.java.lang.System.currentTimeMillis()
    port = f":{parameters.port:04X}"
    if not Path("/proc/net/tcp").exists():
        return
    listening = [
        line.split()[1]
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[1].endswith(port)
    ]
    assert listening
    # 127.0.0.1, as IPv4 or mapped into IPv6, in the kernel's byte order.
    assert all(a.partition(":")[0].endswith("0100007F") for a in listening)
