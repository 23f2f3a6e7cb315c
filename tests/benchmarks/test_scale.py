"""The rehearsal over several hosts: plan and account; and hosts, where root can make them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from eto_gym.agents.rollout.engine import plan_episodes
from eto_gym.agents.rollout.spec import failed_episode
from eto_gym.benchmarks.scale import account, hosts, plan, rehearsal, run
from eto_gym.trajectories import Trajectory

ROOT = Path(__file__).resolve().parents[2]


# --- the plan ----------------------------------------------------------------------------------


def test_the_default_is_512_conversations_on_four_hosts() -> None:
    default = plan.read_plan([])
    assert (default.hosts, default.slots) == (4, 512)
    assert plan.PARTS == (*default.parts, "silence") == tuple(rehearsal.PARTS)
    assert default.out.is_absolute()
    assert plan.read_plan(["--parts", "loop", "rollout"]).parts == ("rollout", "loop")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--hosts 3", "expected 4 to 32 hosts"),
        ("--workers 0", "at least one CPU, one worker"),
        ("--slots 5 --workers 6", "expected workers <= slots <= episodes, got 6, 5 and 1024"),
        ("--episodes 10", "got 3, 512 and 10"),
        ("--parts party", "invalid choice"),
    ],
)
def test_what_cannot_be_rehearsed_is_refused(
    words: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        plan.read_plan(words.split())
    assert told in capsys.readouterr().err


def test_the_commands_are_those_of_the_documents() -> None:
    def typed(words: list[str]) -> str:
        return " ".join(Path(word).name if word.startswith("/") else word for word in words)

    wanted = plan.Plan()
    documents = (ROOT / "docs" / "cluster.md").read_text()
    assert typed(plan.make_token()) == "ray get-auth-token --generate"
    assert typed(plan.make_token()) in documents
    assert typed(plan.start_head()).startswith("ray start --head --port 6379")
    assert "ray start --head --port 6379" in documents
    assert typed(plan.join_head(2)).startswith("ray start --address 10.77.0.1:6379")
    assert "--launcher ray" in typed(plan.rollout(wanted, Path("t.jsonl"), launcher="ray"))
    launched = typed(plan.launch(1, "10.77.0.2", plan.loop(wanted, Path("out"))))
    assert launched.startswith("accelerate launch --config_file cpu.yaml --num_machines 2")
    assert "--machine_rank 1 --main_process_ip 10.77.0.2" in launched
    assert " -m eto_gym.cli.main train eto --env alfworld --preset smoke " in launched


def test_hosts_are_refused_where_they_cannot_be() -> None:
    all_tools = list(hosts.TOOLS)
    fine = [Path("/srv/checkout")]
    assert hosts.refusal(root=True, found=all_tools, folders=fine) is None
    assert hosts.refusal(root=False, found=all_tools, folders=fine) is not None
    without = hosts.refusal(root=True, found=["bash"], folders=fine)
    assert without is not None
    assert without.startswith("ip, unshare, nsenter")
    hidden = hosts.refusal(root=True, found=all_tools, folders=[Path("/tmp/checkout")])
    assert hidden is not None
    assert "every host has a /tmp of its own" in hidden


# --- the account -------------------------------------------------------------------------------


def played(count: int) -> list[Trajectory]:
    lost = (failed_episode(e, "worker") for e in plan_episodes([f"task-{i}" for i in range(count)]))
    return [replace(t, outcome="truncated", error=None) for t in lost]


def test_every_episode_must_be_there_once_and_the_same() -> None:
    expected = played(3)
    error = replace(expected[2], outcome="error", error="worker")
    assert account.episodes(expected, [error, *expected])["right"]
    wrong = {
        "missing": expected[:2],
        "twice": [*expected, expected[0]],
        "another": [*expected[:2], replace(expected[2], success=True, reward=1.0)],
        "an error": [*expected[:2], error],
        "unplanned": [*expected, *played(4)[3:]],
    }
    for name, stored in wrong.items():
        assert not account.episodes(expected, stored)["right"], name


def test_loops_are_compared_in_all_that_time_does_not_change(tmp_path: Path) -> None:
    def folder(name: str, text: str, success: float) -> Path:
        stage = tmp_path / name / "stages" / "explore-1-abc"
        stage.mkdir(parents=True)
        row = {"messages": [text], "usage": {"prefilled_tokens": success}, "digest": name}
        (stage / "trajectories.jsonl").write_text(json.dumps(row) + "\n")
        rows = [{"policy": "SFT", "success": {"mean": success}, "train_seconds": 1.0}]
        (tmp_path / name / "report.json").write_text(json.dumps({"policies": rows}))
        return tmp_path / name

    expected = folder("expected", "a", 0.5)
    same = account.loops(expected, folder("same", "a", 0.5))
    assert same["right"]
    assert same["success"] == {"SFT": 0.5}
    assert not account.loops(expected, folder("score", "a", 0.25))["right"]
    other = account.loops(expected, folder("other", "b", 0.5))
    assert not other["right"]
    assert other["differing"] == ["stages/explore-1-abc/trajectories.jsonl"]
    assert not account.loops(tmp_path / "none", tmp_path / "none")["right"]


def test_what_a_host_took_with_it_is_read_from_what_the_command_told() -> None:
    told = (
        "a rollout process died (ActorDiedError: The actor died unexpectedly.\n\tip: 10.77.0.4\n"
        "The node died.) with 96 episodes\nalfworld: episode 3/9\n"
        "a rollout process died (exit code -9) with 0 episodes\n"
    )
    assert account.lost(told) == [96, 0]


def test_the_table_tells_what_went_wrong() -> None:
    used = {"host0": {"cpu_s": 12.4, "peak_mb": None}, "host1": {"cpu_s": 3.0, "peak_mb": 1500.0}}
    rows = [
        {"part": "rollout", "right": True, "planned": 9, "told": "text", "hosts": used},
        {"part": "loop", "right": False, "error": "no room"},
    ]
    told = run.table(rows).splitlines()
    assert told[2:] == [
        "| rollout | yes | 12 + 3 | -, 1,500 | planned 9 |",
        "| loop | NO |  |  | no room |",
    ]


# --- hosts -------------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from eto_gym.benchmarks.scale.hosts import Hosts
with Hosts(Path(sys.argv[1]), 1, memory_mb=500, shm_mb=8) as made:
    words = ["bash", "-c", "echo $$; exec sleep 987"]
    made[0].start(words, log=Path(sys.argv[1]) / "log", env={}, cwd=Path("/"))
    time.sleep(600)
"""


@pytest.fixture
def folder() -> Path:
    """Return a folder that is not in /tmp, or skip."""
    if (reason := hosts.refusal_here([ROOT])) is not None:
        pytest.skip(reason)
    made = ROOT / "build" / f"hosts-{os.getpid()}"
    made.mkdir(parents=True)
    return made


def marked(words: bytes) -> list[int]:
    """Return the processes whose command holds these words."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
            except OSError:
                continue
            if words in command:
                found.append(int(entry.name))
    return found


ASKED = pytest.mark.skipif(
    "ETO_GYM_TEST_HOSTS" not in os.environ,
    reason="makes namespaces and groups as root: set ETO_GYM_TEST_HOSTS",
)


@ASKED
@pytest.mark.slow
def test_hosts_have_names_and_addresses_and_lose_them(folder: Path) -> None:
    def does(host: hosts.Host, script: str) -> tuple[int, str]:
        log = folder / "log"
        log.unlink(missing_ok=True)
        words = ["bash", "-c", script]
        status = host.start(words, log=log, env={"A": "b"}, cwd=Path("/")).wait(30)
        return status, log.read_text()

    reach = "exec 3<>/dev/tcp/{}/7000 && head -c 2 <&3"
    try:
        with hosts.Hosts(folder, 3, memory_mb=500, shm_mb=8) as made:
            assert does(made[1], "echo $(hostname) $A $HOME; touch /tmp/own; ls /tmp")[
                1
            ].split() == [*("host1", "b", "/tmp/home", "home", "own")]
            assert does(made[2], "ls /tmp")[1].split() == ["home"]
            script = folder / "serve.py"
            script.write_text(
                "import socket\ns = socket.create_server(('', 7000))\n"
                "while True:\n    c, _ = s.accept()\n    c.send(b'hi')\n    c.close()\n"
            )
            server = [sys.executable, str(script)]
            serving = made[2].start(server, log=folder / "serve", env={}, cwd=Path("/"))
            deadline = time.monotonic() + 60
            while does(made[1], reach.format("host2"))[1] != "hi":
                assert time.monotonic() < deadline, (folder / "serve").read_text()
                time.sleep(0.2)
            assert does(made[2], reach.format("127.0.0.1")) == (0, "hi")
            made[2].unplug()
            assert does(made[1], "timeout 2 bash -c '" + reach.format("host2") + "'")[0] != 0
            assert does(made[2], reach.format("127.0.0.1")) == (0, "hi"), "it goes on by itself"
            made[2].power_off()
            assert serving.wait(10) != 0
            new = made.replace(2)
            assert does(new, "ls /tmp")[1].split() == ["home"]
        assert [entry.name for entry in folder.iterdir() if entry.is_dir()] == []
        assert not list(Path("/sys/fs/cgroup").glob(f"*/eto-scale-{os.getpid()}-*"))
    finally:
        shutil.rmtree(folder)


@ASKED
@pytest.mark.slow
def test_hosts_end_with_the_process_that_made_them(folder: Path) -> None:
    words = [sys.executable, "-c", HOLD, str(folder)]
    holder = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        deadline = time.monotonic() + 60
        while not ((folder / "log").exists() and (folder / "log").read_text()):
            assert time.monotonic() < deadline
            assert holder.poll() is None
            time.sleep(0.1)
        assert marked(b"sleep 987")
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        while marked(b"sleep 987"):
            assert time.monotonic() < deadline, "a process of a host outlives it"
            time.sleep(0.1)
        with hosts.Hosts(folder, 1, memory_mb=500, shm_mb=8):
            pass
        assert [entry.name for entry in folder.iterdir() if entry.is_dir()] == []
        assert not list(Path("/sys/fs/cgroup").glob(f"*/eto-scale-{holder.pid}-*"))
    finally:
        holder.kill()
        shutil.rmtree(folder)
