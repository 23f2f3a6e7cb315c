"""What is rehearsed: the options, and the commands as a user of several machines types them."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import eto_gym
from eto_gym.benchmarks.scale.hosts import NETWORK

CHECKOUT = Path(eto_gym.__file__).resolve().parents[1]
PARTS = ("rollout", "policies", "head", "loop", "launch", "silence")
"""What can be rehearsed; the last is the second half of the one before it."""
HEAD = f"{NETWORK}.1"
RAY_PORT, LISTEN_PORT, LAUNCH_PORT = 6379, 52369, 29500
OBJECT_STORE_MB = 80

# All nodes are of one machine, whose cores others may use too, and must be up within 30 seconds. So
# the ports of their agents are given, for which they need not wait then, and what copies the output
# of their processes to the command is left out.
_LIGHT = (
    *("--dashboard-agent-grpc-port", "52366", "--runtime-env-agent-port", "52367"),
    *("--metrics-export-port", "52368", "--dashboard-agent-listen-port", str(LISTEN_PORT)),
    *("--include-log-monitor", "false"),
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A rehearsal.

    Attributes:
        parts: What is done, in this order.
        out: Folder of all results, which the hosts share.
        hosts: How many; the first has the head of the cluster, and plays nothing.
        cpus: Those that each of the others declares.
        workers: Actors over all hosts.
        slots: Conversations at the same time, over all workers.
        episodes: Of a rollout.
        memory_mb: Limit of each host's memory.
    """

    parts: tuple[str, ...] = PARTS[:-1]
    out: Path = Path("runs/scale")
    hosts: int = 4
    cpus: int = 1
    workers: int = 3
    slots: int = 512
    episodes: int = 1024
    memory_mb: int = 4096


def read_plan(argv: Sequence[str] | None = None) -> Plan:
    """Read the options; what cannot be rehearsed ends the program with a message."""
    default = Plan()
    parser = argparse.ArgumentParser(
        prog="python -m eto_gym.benchmarks.scale",
        description="Rehearse rollouts and loops over several hosts, some of which fail.",
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(default.parts))
    parser.add_argument("--out", type=Path, default=default.out, help="emptied part by part")
    for name, told in {
        "hosts": "how many, the head's included",
        "cpus": "declared by each host but the head's",
        "workers": "actors over all hosts",
        "slots": "conversations at a time, over all workers",
        "episodes": "of a rollout, of 4,000 at most",
        "memory-mb": "limit of a host, where the system has cgroup v1",
    }.items():
        value = getattr(default, name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=int, default=value, help=f"{told} ({value})")
    args = parser.parse_args(argv)
    if not 4 <= args.hosts <= 32:
        parser.error(f"expected 4 to 32 hosts, as two of them fail, got {args.hosts}")
    if min(args.cpus, args.workers, args.memory_mb) < 1:
        parser.error("expected at least one CPU, one worker and one MB")
    if not args.workers <= args.slots <= args.episodes:
        parser.error(
            "expected workers <= slots <= episodes, got "
            f"{args.workers}, {args.slots} and {args.episodes}"
        )
    values = {**vars(args), "parts": tuple(p for p in PARTS if p in args.parts)}
    return Plan(**{**values, "out": args.out.resolve()})


def environment() -> dict[str, str]:
    """Return what is exported in every shell that takes part."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(CHECKOUT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "LANG": "C.UTF-8",
    }


# Every stage of the smoke preset with fewer and shorter episodes, and more of them explored.
_SMALL = (
    *("--base.tasks", "16", "--base.steps", "5", "--train-tasks", "16", "--eval-tasks", "6"),
    *("--explore-tasks", "12", "--explore-samples", "4", "--max-steps", "6", "--dev-tasks", "0"),
    *("--iterations", "1", "--control", "false", "--sft.epochs", "1"),
)


def make_token() -> list[str]:
    """Return the command that makes the token of a cluster."""
    return [_program("ray"), "get-auth-token", "--generate"]


def start_head() -> list[str]:
    """Return the command that starts a cluster: on a head that plays nothing."""
    return [
        *(_program("ray"), "start", "--head", "--port", str(RAY_PORT), "--num-cpus", "0"),
        *("--object-store-memory", str(OBJECT_STORE_MB * 2**20), "--include-dashboard", "false"),
        "--no-monitor",  # of the autoscaler, which could start no host here
        *_LIGHT,
    ]


def join_head(cpus: int) -> list[str]:
    """Return the command by which another host joins the cluster."""
    return [
        *(_program("ray"), "start", "--address", f"{HEAD}:{RAY_PORT}", "--num-cpus", str(cpus)),
        *("--object-store-memory", str(OBJECT_STORE_MB * 2**20)),
        *_LIGHT,
    ]


def stop_ray() -> list[str]:
    """Return the command that ends what a failed start has left on a host."""
    return [_program("ray"), "stop", "--force"]


def rollout(plan: Plan, out: Path, *, launcher: str = "local") -> list[str]:
    """Return the command of a rollout with random actions on ALFWorld's own training tasks.

    Args:
        plan: The rehearsal.
        out: Where the trajectories go.
        launcher: Where it is played; "local" plays in one process.
    """
    workers = 1 if launcher == "local" else plan.workers
    return [
        *eto_gym_command("rollout", "alfworld", "--policy", "random", "--split", "train"),
        *("--limit", str(plan.episodes), "--slots", str(plan.slots), "--out", str(out)),
        *("--workers", str(workers), "--launcher", launcher),
    ]


def loop(plan: Plan, out: Path, *, launcher: str = "local", workers: int = 1) -> list[str]:
    """Return the command of an ETO loop on ALFWorld, with an exploration that takes a while.

    Args:
        plan: The rehearsal.
        out: The run folder.
        launcher: Where it plays.
        workers: Actors that play.
    """
    return [
        *eto_gym_command("train", "eto", "--env", "alfworld", "--preset", "smoke"),
        *("--out", str(out), "--launcher", launcher, "--workers", str(workers)),
        *("--slots", str(2 * workers), "--progress", "false", *_SMALL),
    ]


def launch(rank: int, first: str, command: Sequence[str]) -> list[str]:
    """Return what starts a command of `eto_gym_command` as one of two processes on two machines.

    Args:
        rank: Of this machine, 0 or 1.
        first: Address of the first.
        command: The command.
    """
    config = CHECKOUT / "trainers" / "settings" / "accelerate_files" / "cpu.yaml"
    return [
        *(_program("accelerate"), "launch", "--config_file", str(config)),
        *("--num_machines", "2", "--num_processes", "2", "--machine_rank", str(rank)),
        *("--main_process_ip", first, "--main_process_port", str(LAUNCH_PORT)),
        *command[1:],  # `-m` and the module: the launcher has a Python of its own
    ]


def eto_gym_command(*words: str) -> list[str]:
    """Return a command of `eto-gym`, that of this checkout."""
    return [sys.executable, "-m", "eto_gym.cli.main", *words]


def _program(name: str) -> str:
    """Return the path of a program that belongs to this Python."""
    return str(Path(sys.executable).with_name(name))
