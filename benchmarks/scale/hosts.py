"""Hosts that are namespaces of this machine, on a network of their own that leads nowhere else.

Each host has its own address, name, /tmp, /dev/shm, processes and, where the system lets its memory
be limited, memory. All see the machine's other folders, which so are what a shared file system is
to real hosts. No network, mount or name of the machine itself is touched. The hosts are gone with
the process that made them, whatever ended it; `Hosts` tidies up empty groups and folders that one
which was killed outright has left.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from eto_gym.errors import EtoGymError

TOOLS = ("ip", "unshare", "nsenter", "bash", "mount", "hostname")
NETWORK = "10.77.0"
"""First three bytes of all addresses; nothing outside sees them."""

_CGROUPS = Path("/sys/fs/cgroup")
_PREFIX = "eto-scale-{}-"
"""Of all folders and groups that a process makes."""
_SWITCH = """
ip link set lo up
ip link add sw0 type bridge
ip addr add {network}.254/24 dev sw0
ip link set sw0 up
echo up
read -r _
"""
# The host's first process: bash, since it waits for the children that others leave to it. The
# default route leads to the switch, which forwards nothing: programs find their address by it.
_HOST = """
set -e
hostname {name}
mount -t tmpfs -o size={shm} tmpfs /dev/shm
mount --bind {folder}/tmp /tmp
mount --bind {folder}/hosts /etc/hosts
if [ -n "{memory}" ]; then mount --bind "{memory}" /sys/fs/cgroup/memory; fi
ip link set lo up
echo up
read -r _
"""


def refusal(*, root: bool, found: Sequence[str], folders: Sequence[Path]) -> str | None:
    """Return why hosts cannot be made here, if they cannot.

    Args:
        root: Whether this process may make them.
        found: Those of `TOOLS` that are installed.
        folders: What all hosts must see.
    """
    if not root:
        return "namespaces and their network need root"
    if missing := [tool for tool in TOOLS if tool not in found]:
        return f"{', '.join(missing)} not found: install iproute2, util-linux and hostname"
    for folder in folders:
        if folder.resolve().is_relative_to("/tmp"):
            return f"{folder} is in /tmp, and every host has a /tmp of its own: move it elsewhere"
    return None


def refusal_here(folders: Sequence[Path]) -> str | None:
    """Return why this process cannot make hosts that see these folders, if it cannot."""
    found = [tool for tool in TOOLS if shutil.which(tool)]
    return refusal(root=os.geteuid() == 0, found=found, folders=folders)


class Used(NamedTuple):
    """What a host has used; None where the system does not count it.

    Attributes:
        cpu_s: Processor time of all its processes, in seconds.
        peak_mb: Most memory that they had together, its files in memory included.
    """

    cpu_s: float | None
    peak_mb: float | None


class Host:
    """A host that is up; made by `Hosts`."""

    def __init__(self, number: int, folder: Path, switch: int, *, memory_mb: int, shm_mb: int):
        """Power it on.

        Args:
            number: From 0; decides its name and address.
            folder: Its own folder, empty.
            switch: Process of the switch.
            memory_mb: Limit of its memory, where there is cgroup v1.
            shm_mb: Size of its /dev/shm.
        """
        self.name, self.address = f"host{number}", f"{NETWORK}.{number + 1}"
        self._switch = switch
        self._groups = _make_groups(f"{_PREFIX.format(os.getpid())}{self.name}-{time.time_ns()}")
        for group in self._groups:
            if group.parent.name == "memory":
                (group / "memory.limit_in_bytes").write_text(str(memory_mb * 2**20))
        memory = next((str(g) for g in self._groups if g.parent.name == "memory"), "")
        (folder / "tmp" / "home").mkdir(parents=True, exist_ok=True)
        self.home = folder / "tmp" / "home"
        known = "".join(f"{NETWORK}.{i + 1} host{i}\n" for i in range(32))
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{known}")
        script = _HOST.format(name=self.name, shm=f"{shm_mb}m", folder=folder, memory=memory)
        spaces = ["--net", "--uts", "--mount", "--ipc", "--pid", "--fork", "--kill-child"]
        self._first = _up(["unshare", *spaces, "--mount-proc", "bash", "-c", script], self.name)
        cable = f"link add {self.name} type veth peer name eth0 netns {self._first.pid}"
        _ip(switch, *cable.split())
        _ip(switch, *f"link set {self.name} master sw0 up".split())
        for told in (f"addr add {self.address}/24 dev eth0", "link set eth0 up"):
            _ip(self._first.pid, *told.split())
        _ip(self._first.pid, *f"route add default via {NETWORK}.254".split())

    def start(
        self, words: Sequence[str], *, log: Path, env: Mapping[str, str], cwd: Path
    ) -> subprocess.Popen[bytes]:
        """Start a program on the host.

        Args:
            words: The command.
            log: File that its output is appended to.
            env: Its environment, apart from HOME, TMPDIR and PATH.
            cwd: Its folder.
        """
        inside = ["nsenter", f"--target={self._first.pid}", "--net", "--uts", "--mount", "--ipc"]
        inside += [f"--pid=/proc/{self._first.pid}/ns/pid_for_children", f"--wdns={cwd}"]
        enter = "".join(f"echo $$ > {group}/tasks; " for group in self._groups)
        own = {"HOME": "/tmp/home", "TMPDIR": "/tmp", "PATH": os.environ.get("PATH", "")}
        with log.open("ab") as output:
            return subprocess.Popen(
                ["bash", "-c", f'{enter}exec "$@"', "bash", *inside, *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**own, **env},
                start_new_session=True,
            )

    def unplug(self) -> None:
        """Take its cable out: it goes on, and nobody hears of it."""
        _ip(self._switch, "link", "set", self.name, "down")

    def power_off(self) -> None:
        """End everything on it at once; nobody is told, as where the power fails."""
        if self._first.poll() is None:
            with contextlib.suppress(EtoGymError):
                self.unplug()
            self._first.kill()
        self._first.wait()

    def processes(self) -> list[int]:
        """Return the numbers, on this machine, of what was started on it and runs."""
        for group in self._groups:
            return [int(pid) for pid in (group / "cgroup.procs").read_text().split()]
        return []

    def used(self) -> Used:
        """Return what it has used since it was made; still there after its end."""
        found = {group.parent.name: group for group in self._groups}
        cpu, peak = found.get("cpuacct"), found.get("memory")
        return Used(
            int((cpu / "cpuacct.usage").read_text()) / 1e9 if cpu else None,
            int((peak / "memory.max_usage_in_bytes").read_text()) / 2**20 if peak else None,
        )

    def close(self) -> None:
        """Power it off, and forget what it has used."""
        self.power_off()
        with contextlib.suppress(EtoGymError):  # the system takes it away too, some time later
            _ip(self._switch, "link", "del", self.name)
        deadline = time.monotonic() + 10.0
        for group in self._groups:
            while True:
                try:
                    group.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:  # the last of its processes are on their way out
                    if time.monotonic() > deadline:  # on a busy machine; the next start tidies up
                        break
                    time.sleep(0.05)


class Hosts:
    """Some hosts and the switch between them, while it is entered.

    Example:
        >>> with Hosts(Path("/var/tmp/hosts"), 4, memory_mb=4000, shm_mb=200) as hosts:
        ...     hosts[1].power_off()  # doctest: +SKIP
    """

    def __init__(self, folder: Path, count: int, *, memory_mb: int, shm_mb: int) -> None:
        """Prepare; nothing is started.

        Args:
            folder: For a folder of each host; not in /tmp.
            count: How many.
            memory_mb: Limit of each one's memory, where there is cgroup v1.
            shm_mb: Size of each one's /dev/shm.
        """
        self._parent, self._count = folder, count
        self._sizes = {"memory_mb": memory_mb, "shm_mb": shm_mb}
        self._hosts: list[Host] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Power all of them on."""
        with contextlib.ExitStack() as stack:
            self._parent.mkdir(parents=True, exist_ok=True)
            _tidy(self._parent)
            made = tempfile.TemporaryDirectory(
                dir=self._parent, prefix=_PREFIX.format(os.getpid()), ignore_cleanup_errors=True
            )
            self._folder = Path(stack.enter_context(made))
            script = _SWITCH.format(network=NETWORK)
            self._switch = _up(["unshare", "--net", "bash", "-ec", script], "the switch")
            stack.callback(_end, self._switch)
            stack.callback(self._close)
            for number in range(self._count):
                self._hosts.append(self._make(number))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Power all of them off, and remove what they had."""
        self._stack.__exit__(kind, error, trace)

    def __getitem__(self, number: int) -> Host:
        """Return a host."""
        return self._hosts[number]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._hosts)

    def __iter__(self) -> Iterator[Host]:
        """Iterate over the hosts."""
        return iter(self._hosts)

    def replace(self, number: int) -> Host:
        """Put a new host in place of one, with its name and address and an empty /tmp."""
        self._hosts[number].close()
        self._hosts[number] = self._make(number)
        return self._hosts[number]

    def _make(self, number: int) -> Host:
        folder = Path(tempfile.mkdtemp(prefix=f"host{number}-", dir=self._folder))
        return Host(number, folder, self._switch.pid, **self._sizes)

    def _close(self) -> None:
        with contextlib.ExitStack() as stack:
            for host in self._hosts:
                stack.callback(host.close)
        self._hosts.clear()


def _up(words: Sequence[str], name: str) -> subprocess.Popen[str]:
    """Start what says "up" and then waits for the end of its input, which is ours too."""
    process = subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # not in reach of a Ctrl-C: `close` ends it in order
    )
    assert process.stdout is not None
    assert process.stderr is not None
    if process.stdout.readline() != "up\n":
        _end(process)
        raise EtoGymError(f"{name} does not come up: {process.stderr.read().strip()}")
    return process


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def _ip(space: int, *words: str) -> None:
    """Run `ip` in the network of a process."""
    done = subprocess.run(
        ["nsenter", f"--net=/proc/{space}/ns/net", "ip", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise EtoGymError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def _tidy(parent: Path) -> None:
    """Remove what processes have left that were killed outright: folders, and groups."""
    left = [*parent.glob(_PREFIX.format("*") + "*"), *_CGROUPS.glob(f"*/{_PREFIX.format('*')}*")]
    for path in left:
        if Path(
            f"/proc/{path.name.removeprefix(_PREFIX.partition('{')[0]).split('-')[0]}"
        ).exists():
            continue
        if path.is_relative_to(_CGROUPS):
            with contextlib.suppress(OSError):  # its processes are on their way out
                path.rmdir()
        else:
            shutil.rmtree(path)


def _make_groups(name: str) -> list[Path]:
    """Make a host's groups of processes, where the system has cgroup v1; else none."""
    groups = []
    for kind in ("memory", "cpuacct"):
        parent = _CGROUPS / kind
        if (parent / "tasks").exists():
            group = parent / name
            with contextlib.suppress(OSError):
                group.mkdir()
                groups.append(group)
    return groups
