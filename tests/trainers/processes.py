"""Trainings in two processes, and what they learnt beside what one process learnt."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TextIO

import pytest

from eto_gym.testing.fake_endpoint import hold_port

ROOT = Path(__file__).parents[2]

LEARNING = frozenset({"loss", "grad_norm", "learning_rate", "rewards/margins"})
"""Metrics that do not depend on the number of processes, where a method has them."""

SCRIPT = """
import json, sys
from importlib import import_module
module, name, arguments = json.loads(sys.argv[1])
getattr(import_module(module), name)(*arguments)
"""


def launch(
    work: Callable[..., None],
    *arguments: str,
    folder: Path,
    config: str = "cpu",
    environment: dict[str, str] | None = None,
    **changes: Any,
) -> None:
    """Run a function of a test module under `accelerate launch`, and fail where it fails.

    Args:
        work: The function, at the top of its module; it runs in both processes.
        arguments: What it is called with.
        folder: Where the script and its configuration are written.
        config: Which of `configs/accelerate` is used, for two processes.
        environment: Variables for the processes.
        changes: Entries that replace those of the configuration.

    Raises:
        AssertionError: One of the processes failed.
    """
    yaml = pytest.importorskip("yaml")
    written = yaml.safe_load((ROOT / "configs" / "accelerate" / f"{config}.yaml").read_text())
    folder.mkdir(parents=True, exist_ok=True)
    file, script = folder / "accelerate.yaml", folder / "work.py"
    changes = {"num_processes": 2, **changes}
    script.write_text(SCRIPT)
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file)),
        str(script),
        json.dumps([work.__module__, work.__name__, arguments]),
    ]
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **(environment or {})}
    with hold_port() as held:
        changes["main_process_port"] = held.getsockname()[1]
        file.write_text(yaml.safe_dump({**written, **changes}))
        _run(command, {**os.environ, **own})


def _run(command: list[str], environment: dict[str, str]) -> None:
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            _, errors = process.communicate()
        except BaseException:  # the test's time is over: the launcher ends both processes
            process.terminate()
            raise
    assert process.returncode == 0, errors[-5000:]


def fork(work: Callable[..., None], *arguments: str) -> None:
    """Run a function in two copies of this process, with all that it has imported.

    The way for tests whose subject is what the processes do; `launch` is how users start them,
    where each imports everything anew.

    Raises:
        torch.multiprocessing.ProcessRaisedException: One of the processes failed.
        torch.multiprocessing.ProcessExitedException: One of them was killed.
    """
    from torch.multiprocessing.spawn import start_processes

    with hold_port() as held:
        told = (held.getsockname()[1], work, arguments)
        start_processes(_work_afresh, told, nprocs=2, start_method="fork")  # type: ignore[no-untyped-call]


def _work_afresh(
    rank: int, port: int, work: Callable[..., None], arguments: tuple[str, ...]
) -> None:
    """Be one of two processes as `accelerate launch` starts them."""
    from accelerate.state import AcceleratorState, GradientState

    from eto_gym.trainers.run.process_group import launched

    AcceleratorState._reset_state(reset_partial_state=True)  # what tests before left behind
    GradientState._reset_state()
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true",
        "ACCELERATE_MIXED_PRECISION": "no",
    }  # fmt: skip
    group = launched()
    assert (group.index, group.count) == (rank, 2)
    work(*arguments)


def fork_one(work: Callable[..., None], *arguments: Any) -> int | None:
    """Run a function in one copy of this process, and return how the copy ended.

    Python started anew would take seconds to import what is imported here.
    """
    process = multiprocessing.get_context("fork").Process(
        target=_work_alone, args=(work, arguments)
    )
    process.start()
    process.join()
    return process.exitcode


def _work_alone(work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    import torch

    torch.set_num_threads(1)  # a copy has none of the threads that shared the work
    work(*arguments)


def die() -> None:
    """End this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Return the processes that a process has started, and theirs, as Linux tells them."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended
            for child in map(int, task.read_text().split()):
                found += [child, *descendants(child)]
    return found


def speak_into(folder: Path) -> None:
    """Let all that this copy says go to the files `stdout` and `stderr`, as to a terminal.

    Pytest collects warnings and what is logged; here they are said as in a process of a user.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))

    warnings.showwarning = show
    warnings.resetwarnings()
    for quiet in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", quiet)  # as Python does by itself
    logging.root.handlers.clear()
    for logger in logging.root.manager.loggerDict.values():
        for handler in getattr(logger, "handlers", ()):
            if type(handler) is logging.StreamHandler:
                handler.stream = sys.stderr  # `setStream` flushes the old one: pytest has closed it


def compare(
    one: Path,
    two: Path,
    *,
    entries: int,
    keys: Collection[str] = LEARNING,
    rel: float = 1e-3,
    near: float = 1e-5,
    apart: float = 0.0,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Check that two trainings went alike, and return their reports.

    Args:
        one: What one process wrote.
        two: What two wrote.
        entries: How many entries of metrics there must be.
        keys: Metrics that are compared where the method has them.
        rel: Largest difference of metrics, as a part of them.
        near: Largest difference of weights.
        apart: Part of each weight's entries that may differ more than that.
    """
    reports = [json.loads((folder / "training.json").read_text()) for folder in (one, two)]
    first, second = (report["metrics"] for report in reports)
    assert len(first) == len(second) == entries
    for expected, got in zip(first, second, strict=True):
        assert {"loss", "grad_norm"} <= set(expected)
        for key in set(expected) & set(keys):
            assert got[key] == pytest.approx(expected[key], rel=rel, abs=1e-5), (two.name, key)
    weights, others = load_weights(one), load_weights(two)
    assert set(weights) == set(others)  # tied weights once
    for key, value in weights.items():
        far = (value.float() - others[key].float()).abs() > near
        assert far.float().mean() <= apart, (two.name, key)
    assert not two.with_name(f"{two.name}.work").exists()
    return reports[0], reports[1]


def load_weights(folder: Path) -> dict[str, Any]:
    """Read the weights of a finished model or adapter."""
    from safetensors.torch import load_file

    (file,) = folder.glob("*model.safetensors")
    return dict(load_file(file))
