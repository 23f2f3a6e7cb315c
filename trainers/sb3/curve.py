"""The learning curve: what the training episodes of each stretch of steps amounted to."""

from __future__ import annotations

import csv
import importlib.util
import time
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

COLUMNS = (
    "steps",
    "episodes",
    "success",
    "reward",
    "length",
    "dropped",
    "errors",
    "seconds",
)


Row = dict[str, float | None]


class LearningCurve(BaseCallback):
    """Writes a row whenever `every` steps have been taken.

    A row covers the training episodes that ended since the row before, exploration included:
    `steps` taken so far, `episodes` that ended, the share that was a `success`, their mean `reward`
    and `length` (None where none ended), admissible actions `dropped` per step, episodes that ended
    in an environment's `errors` (they are not among the others), and `seconds` since the start.
    """

    def __init__(self, path: str | Path, *, every: int) -> None:
        """Create the callback.

        Args:
            path: CSV file, appended to row by row.
            every: Environment steps per row.
        """
        super().__init__()
        self.rows: list[Row] = []
        self._path = Path(path)
        self._every = every
        self._next = every
        self._started = 0.0
        self._clear()

    def _clear(self) -> None:
        self._ends: list[tuple[bool, float, int]] = []
        self._dropped = self._errors = self._steps = 0

    def _on_training_start(self) -> None:
        self._started = time.monotonic()
        with self._path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(COLUMNS)

    def _on_step(self) -> bool:
        infos: list[dict[str, Any]] = self.locals["infos"]
        for info in infos:
            self._dropped += info["candidates_dropped"]
            if "episode" not in info:
                continue
            if info.get("error") is not None:
                self._errors += 1
            else:
                played = info["episode"]
                self._ends.append((info["is_success"], played["r"], played["l"]))
        self._steps += len(infos)
        if self.num_timesteps >= self._next:
            self._write()
            self._next = (self.num_timesteps // self._every + 1) * self._every
        return True

    def _on_training_end(self) -> None:
        if self._steps:
            self._write()

    def _write(self) -> None:
        success, reward, length = self._means()
        row: Row = {
            "steps": self.num_timesteps,
            "episodes": len(self._ends),
            "success": success,
            "reward": reward,
            "length": length,
            "dropped": round(self._dropped / self._steps, 2),
            "errors": self._errors,
            "seconds": round(time.monotonic() - self._started, 1),
        }
        self.rows.append(row)
        with self._path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow([row[name] for name in COLUMNS])
        self._clear()

    def _means(self) -> list[float | None]:
        if not self._ends:
            return [None, None, None]
        return [round(float(mean), 4) for mean in np.array(self._ends, float).mean(axis=0)]


def plot_curve(rows: list[Row], path: str | Path, *, title: str, random_success: float) -> bool:
    """Draw success over steps beside the random policy's; False where matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4))
    axes = figure.subplots()
    known = [(row["steps"] or 0.0, rate) for row in rows if (rate := row["success"]) is not None]
    axes.plot([step for step, _ in known], [rate for _, rate in known], label="training")
    axes.axhline(random_success, linestyle="--", color="grey", label="random, evaluation tasks")
    axes.set(xlabel="environment steps", ylabel="success rate", title=title, ylim=(0, 1))
    axes.legend()
    figure.savefig(Path(path), dpi=120, bbox_inches="tight")
    return True
