"""What a training takes: memory, time as a whole and of each step, on a CPU or a GPU."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback


class Meter(TrainerCallback):
    """Measures one training in this process, from before its model is loaded.

    Call `loaded` with the model, give the meter to the trainer as a callback, train, and call
    `results`. On CUDA memory is what is allocated, and every step waits for the GPU.
    """

    def __init__(self) -> None:
        self._cuda = torch.cuda.is_available()
        self._start = resident(reset=True)
        self._loading = 0.0
        self._clocks = 0.0, 0.0
        self._begun: float | None = None
        self._ends: list[float] = []
        self._held = 0.0

    def loaded(self, model: Any) -> None:
        """Start the clocks; what loading took for a while counts apart from training."""
        if self._cuda:
            if model.device.type != "cuda":
                model.cuda()
            torch.cuda.reset_peak_memory_stats()
        else:
            self._loading = resident(peak=True)
            # Weights that the loader left mapped from the file count, the rest of it does not.
            for weight in model.parameters():
                weight.data = weight.data.clone()
            resident(reset=True)
        self._clocks = self._now(), time.process_time()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Note when the first step begins."""
        if self._begun is None:
            self._begun = self._now()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note when a step ends, and what is held then."""
        self._ends.append(self._now())
        if not self._cuda:
            self._held = resident() - self._start

    def results(self, *, tokens: float) -> dict[str, Any]:
        """Return what was measured.

        Args:
            tokens: Tokens of all rows, of all steps together.

        Returns:
            Peaks in MB: "training_mb" from the loaded model on, "peak_mb" with loading. "held_mb":
            resident after the last step on a CPU, 0 on a GPU. "wall_s" and "cpu_s" from the loaded
            model to the trained one, and tokens per second of both; "before_s", the part of
            "wall_s" before the first step; "steps_s", the seconds of every step;
            "step_tokens_per_s", tokens per second of the median step, the first, which warms up,
            left out where there are others.
        """
        wall, cpu = self._now() - self._clocks[0], time.process_time() - self._clocks[1]
        if self._cuda:
            training = torch.cuda.max_memory_allocated() / 1e6
        else:
            training = resident(peak=True) - self._start
        begun = self._clocks[0] if self._begun is None else self._begun
        steps = [b - a for a, b in zip([begun, *self._ends], self._ends, strict=False)]
        steady = statistics.median(steps[1:] or steps) if steps else float("nan")
        return {
            "peak_mb": max(self._loading - self._start, training),
            "training_mb": training,
            "held_mb": self._held,
            "cpu_s": cpu,
            "wall_s": wall,
            "before_s": begun - self._clocks[0],
            "steps_s": steps,
            "tokens_per_cpu_s": tokens / cpu,
            "tokens_per_s": tokens / wall,
            "step_tokens_per_s": tokens / len(steps) / steady if steps else float("nan"),
        }

    def _now(self) -> float:
        if self._cuda:
            torch.cuda.synchronize()
        return time.perf_counter()


def resident(*, peak: bool = False, reset: bool = False) -> float:
    """Return the resident memory of this process in MB, or its peak since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    name = "VmHWM:" if peak else "VmRSS:"
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1e3
    raise OSError("the peak of resident memory is read from /proc, which Linux has")


def matrix_rate(size: int = 8192, rounds: int = 20) -> float:
    """Return the operations per second of a large product of bf16 matrices, on a GPU if there."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        left @ right
    clock = _Clock(device)
    for _ in range(rounds):
        left @ right
    return 2 * size**3 * rounds / clock.seconds()


class _Clock:
    """Seconds since it was made, with the device's work done at both ends."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._start = self._now()

    def seconds(self) -> float:
        return self._now() - self._start

    def _now(self) -> float:
        if self._device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()
