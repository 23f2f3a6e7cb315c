"""The rehearsals: what is played, which host fails meanwhile, and what came of it."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from eto_gym.benchmarks.scale import account, plan
from eto_gym.benchmarks.scale.hosts import Host, Hosts
from eto_gym.benchmarks.scale.plan import Plan
from eto_gym.errors import EtoGymError
from eto_gym.files import write_text
from eto_gym.trainers.loops.run_folder import FINISHED

LIMIT = 1800.0
"""Seconds that anything may take; a command that hangs is found out by it."""
_SHM_MB = 160
_LATER = ("explore-*", "pairs-*", "eto-*", "eval-eto-*", FINISHED, "report.*")
"""What a loop has from its exploration on, in its run folder."""
_STARTS = 5
"""How often a node is started, at most."""


class Rehearsal:
    """Hosts, and the cluster on them, while a part is done."""

    def __init__(self, wanted: Plan, hosts: Hosts, folder: Path, say: Callable[[str], None]):
        """Prepare.

        Args:
            wanted: What is rehearsed.
            hosts: They are up, and nothing runs there.
            folder: For the files of this part; empty.
            say: Tells what happens.
        """
        self.plan, self.hosts, self.folder, self.say = wanted, hosts, folder, say
        self.figures: dict[str, Any] = {}

    def run(self, host: Host, words: Sequence[str], name: str) -> None:
        """Run a command on a host to its end, which must be a good one."""
        self.finish(self.start(host, words, name), name)

    def finish(self, process: subprocess.Popen[bytes], name: str) -> None:
        """Wait for the end of a command, which must be a good one."""
        if status := _end_of(process, name):
            raise EtoGymError(f"{name} ended with {status}: {self.told(name)[-600:]}")

    def start(
        self, host: Host, words: Sequence[str], name: str, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a command on a host; `env` is beside what every shell exports."""
        exported = {**plan.environment(), **(env or {})}
        return host.start(words, log=self._log(name), env=exported, cwd=self.folder)

    def told(self, name: str) -> str:
        """Return what a command has told."""
        return self._log(name).read_text(errors="replace")

    def make_cluster(self, joining: int | None = None) -> None:
        """Start Ray as docs/cluster.md says: a token, copied, a head, and those that join it.

        Args:
            joining: How many do; None: all others.
        """
        first, *others = self.hosts
        others = others[:joining]
        self.run(first, plan.make_token(), "token")
        token = first.home / ".ray" / "auth_token"
        for host in others:
            (host.home / ".ray").mkdir(exist_ok=True)
            shutil.copy(token, host.home / ".ray" / "auth_token")
        self._start_ray(first, plan.start_head())
        for host in others:
            self._start_ray(host, plan.join_head(self.plan.cpus))

    def _start_ray(self, host: Host, words: Sequence[str]) -> None:
        """Start a node of the cluster; again where it is not up in the 30 s that Ray gives it."""
        name = f"ray-{host.name}"
        for attempt in range(_STARTS):
            node = secrets.token_hex(28)
            process = self.start(host, words, name, {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": node})
            # Ray (2.60) tells a node this port in no other way, and where the agent is not there in
            # 15 s to write it down, for want of a core, the node dies.
            while process.poll() is None:
                for session in (host.home.parent / "ray").glob("session_2*"):
                    told = session / f"dashboard_agent_listen_port_{node}"
                    if not told.exists():
                        write_text(told, str(plan.LISTEN_PORT))
                time.sleep(0.2)
            if process.returncode == 0:
                return
            self.say(f"Ray did not come up on {host.name} (start {attempt + 1} of {_STARTS})")
            _end_of(self.start(host, plan.stop_ray(), name), name)
        raise EtoGymError(f"Ray does not come up on {host.name}: {self.told(name)[-600:]}")

    def driver(self, host: Host, words: Sequence[str], name: str) -> subprocess.Popen[bytes]:
        """Start a command that joins the cluster."""
        return self.start(host, words, name, {"RAY_ADDRESS": f"{plan.HEAD}:{plan.RAY_PORT}"})

    def await_lines(self, pattern: str, lines: int, process: subprocess.Popen[bytes]) -> int:
        """Wait until files that fit a pattern have so many lines together; return how many."""
        deadline = time.monotonic() + LIMIT
        while True:
            found = sum(_lines(path) for path in self.folder.glob(pattern))
            if found >= lines:
                return found
            if process.poll() is not None:
                raise EtoGymError(f"it ended with {process.returncode} before {lines} episodes")
            if time.monotonic() > deadline:
                raise EtoGymError(f"no {lines} episodes in {LIMIT:g} s")
            time.sleep(0.1)

    def look(self, name: str, process: subprocess.Popen[bytes]) -> None:
        """Note the memory and the open files of a command, and of what runs on the hosts."""
        programs: dict[str, Any] = {}
        if (inner := _python_of(process.pid)) is not None:
            programs["the command"] = _measures(inner)
        for host in self.hosts:
            for pid in host.processes():
                if (program := _program(pid)) is not None:
                    programs.setdefault(f"{program} on {host.name}", _measures(pid))
        self.figures[name] = {key: value for key, value in programs.items() if value}

    def used(self) -> None:
        """Note what the hosts have used."""
        self.figures["hosts"] = {host.name: host.used()._asdict() for host in self.hosts}

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"


@contextlib.contextmanager
def rehearsal(wanted: Plan, name: str, say: Callable[[str], None]) -> Iterator[Rehearsal]:
    """Have hosts for one part, which are gone at its end."""
    folder = wanted.out / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    sizes = {"memory_mb": wanted.memory_mb, "shm_mb": _SHM_MB}
    with Hosts(wanted.out / "hosts", wanted.hosts, **sizes) as hosts:
        yield Rehearsal(wanted, hosts, folder, say)


def rollout(r: Rehearsal, *, launcher: str = "ray") -> dict[str, Any]:
    """Play while one host loses its power and another its cable."""
    expected = _expected_rollout(r)
    r.make_cluster()
    out = r.folder / "t.jsonl"
    driver = r.driver(r.hosts[0], plan.rollout(r.plan, out, launcher=launcher), "rollout")
    at = r.await_lines("t.jsonl", r.plan.episodes // 4, driver)
    r.look("before the first failure", driver)
    r.hosts[-1].power_off()
    r.say(f"{r.hosts[-1].name} lost its power after {at} episodes")
    at = r.await_lines("t.jsonl", r.plan.episodes // 2, driver)
    r.hosts[-2].unplug()
    r.say(f"{r.hosts[-2].name} lost its cable after {at} episodes")
    status = _end_of(driver, "the rollout")
    return _rollout_told(r, expected, out, status)


def policies(r: Rehearsal) -> dict[str, Any]:
    """Do the same with two policy actors, which the workers ask."""
    return rollout(r, launcher="ray:2")


def head(r: Rehearsal) -> dict[str, Any]:
    """Play with one worker beside the command; the head loses its power, and a new one goes on."""
    expected = _expected_rollout(r)
    r.make_cluster(joining=1)
    out = r.folder / "t.jsonl"
    words = plan.rollout(dataclasses.replace(r.plan, workers=1), out, launcher="ray")
    driver = r.driver(r.hosts[1], words, "before")
    at = r.await_lines("t.jsonl", r.plan.episodes // 4, driver)
    r.hosts[0].power_off()
    r.say(f"the head lost its power after {at} episodes")
    started = time.monotonic()
    status = _end_of(driver, "the rollout")
    waited = time.monotonic() - started
    kept = _lines(out)
    r.say(f"the command ended with {status} after {waited:.0f} s; {kept} episodes are stored")
    r.hosts.replace(0)
    r.hosts.replace(1)
    r.make_cluster(joining=1)
    again = r.driver(r.hosts[1], words, "rollout")
    found = _rollout_told(r, expected, out, _end_of(again, "the rollout"))
    ended = {"status without a head": status, "told": r.told("before")[-600:], "stored then": kept}
    return {**found, **ended, "played again": _lines(out) - found["planned"], "end_s": waited}


def loop(r: Rehearsal) -> dict[str, Any]:
    """Run a loop whose exploration loses a host.

    What the command trains and evaluates before is taken from the loop that nothing disturbed.
    """
    expected = _expected_loop(r)
    done = r.folder / "loop"
    _begin(done, expected, without=(*_LATER, "base-play-*", "experts-*"))
    r.make_cluster()
    words = plan.loop(r.plan, done, launcher="ray", workers=len(r.hosts) - 1)
    driver = r.driver(r.hosts[0], words, "loop")
    at = r.await_lines("loop/stages/explore-1-*/trajectories.jsonl", 4, driver)
    r.look("before the failure", driver)
    r.hosts[-1].power_off()
    r.say(f"{r.hosts[-1].name} lost its power after {at} episodes of the exploration")
    status = _end_of(driver, "the loop")
    found = account.loops(expected, done)
    lost = account.lost(r.told("loop"))
    r.say(f"status {status}, {found}; lost with the host: {lost}")
    return {**found, "lost with the hosts": lost, "right": found["right"] and status == 0}


def launch(r: Rehearsal) -> dict[str, Any]:
    """Run a loop in two processes of two hosts; then again, and the second host fails."""
    expected = _expected_loop(r)
    statuses = [_end_of(process, "the loop") for process in _launched(r, "whole")]
    found = account.loops(expected, r.folder / "whole")
    r.say(f"ended with {statuses}: {found}")
    return _without_second(r, expected, {**found, "right": found["right"] and not any(statuses)})


def silence(r: Rehearsal) -> dict[str, Any]:
    """Do only the second half of `launch`: the second of two hosts fails."""
    return _without_second(r, _expected_loop(r), {"right": True})


def _without_second(r: Rehearsal, expected: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Explore on two hosts until one fails; then on both again, to the end of the loop."""
    _begin(r.folder / "cut", expected, without=_LATER)
    first, second = _launched(r, "cut")
    at = r.await_lines("cut/stages/explore-1-*/trajectories.part-1.jsonl", 4, second)
    r.hosts[2].power_off()
    started = time.monotonic()
    r.say(f"{r.hosts[2].name} lost its power after {at} episodes of its exploration")
    alone = _end_of(first, "the first process")
    ended = time.monotonic() - started
    told = r.told("cut-0")[-600:]
    r.say(f"the first process ended with {alone} after {ended:.0f} s")
    r.hosts.replace(2)
    statuses = [_end_of(process, "the loop") for process in _launched(r, "cut")]
    resumed = account.loops(expected, r.folder / "cut")
    r.say(f"resumed, it ended with {statuses}: {resumed}")
    return {
        **found,
        "status without the second host": alone,
        "told": told,
        "end_s": ended,
        "differing after it was resumed": resumed["differing"],
        "right": found["right"] and resumed["right"] and alone != 0 and not any(statuses),
    }


PARTS: dict[str, Callable[[Rehearsal], dict[str, Any]]] = {
    "rollout": rollout,
    "policies": policies,
    "head": head,
    "loop": loop,
    "launch": launch,
    "silence": silence,
}


def do(wanted: Plan, name: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Do a part; return its figures, and under "right" whether it went as it must."""
    with rehearsal(wanted, name, say) as r:
        found = PARTS[name](r)
        r.used()
        return {"part": name, **found, **r.figures}


def _expected_rollout(r: Rehearsal) -> Path:
    """Play in one process, undisturbed, once for all parts and runs in the same folder."""
    out = r.plan.out / f"expected-{r.plan.episodes}.jsonl"
    if not _lines(out) >= r.plan.episodes:
        r.run(r.hosts[0], plan.rollout(r.plan, out), "expected")
    return out


def _expected_loop(r: Rehearsal) -> Path:
    """Run the loop in one process, undisturbed, once for all parts and runs in the same folder."""
    out = r.plan.out / "expected-loop"
    if not (out / FINISHED).exists():
        r.run(r.hosts[0], plan.loop(r.plan, out), "expected")
    return out


def _begin(done: Path, expected: Path, *, without: Sequence[str]) -> None:
    """Make a run folder that holds what another one does, but for some stages and files of it."""

    def left_out(folder: str, names: list[str]) -> set[str]:
        here = Path(folder) in (expected, expected / "stages")
        return set(shutil.ignore_patterns(*without)(folder, names)) if here else set()

    shutil.copytree(expected, done, ignore=left_out)


def _rollout_told(r: Rehearsal, expected: Path, out: Path, status: int) -> dict[str, Any]:
    found = account.rollout_files(expected, out)
    lost = account.lost(r.told("rollout"))
    r.say(f"status {status}, {found}; lost with the hosts: {lost}")
    return {**found, "lost with the hosts": lost, "right": found["right"] and status == 0}


def _launched(r: Rehearsal, name: str) -> list[subprocess.Popen[bytes]]:
    """Start a loop as two processes, on the second and the third host."""
    pair = (r.hosts[1], r.hosts[2])
    command = plan.loop(r.plan, r.folder / name)
    return [
        r.start(host, plan.launch(rank, pair[0].address, command), f"{name}-{rank}")
        for rank, host in enumerate(pair)
    ]


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _end_of(process: subprocess.Popen[bytes], name: str) -> int:
    try:
        return process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        raise EtoGymError(f"{name} has not ended after {LIMIT:g} s") from None


# --- what a process holds -------------------------------------------------------------------------


def _python_of(pid: int) -> int | None:
    """Return the process that `nsenter` has started, which waits for it."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return None
    return int(children[0]) if children else None


def _program(pid: int) -> str | None:
    """Return which of Ray's programs a process is."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return None
    for name in ("gcs_server", "raylet/raylet", "ray::WorkerActor", "ray::PolicyActor"):
        if name in words:
            return name.rpartition("/")[2]
    return None


def _measures(pid: int) -> dict[str, float]:
    """Return the resident MB, the open files and the threads of a process."""
    try:
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except (OSError, ValueError):
        return {}
    resident = int(status["VmRSS"].split()[0]) / 1024
    return {"resident_mb": round(resident), "files": files, "threads": int(status["Threads"])}
