"""A run folder: stages that are named by a hash of what they depend on, finished or not there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eto_gym.agents.memory import release_memory
from eto_gym.errors import DataError, EtoGymError
from eto_gym.files import (
    DIGESTS_FILE,
    changed_since,
    read_object,
    strict,
    write_digests,
    write_json,
)
from eto_gym.trainers.run.process_group import ProcessGroup
from eto_gym.trajectories import JsonlFile

logger = logging.getLogger(__name__)

FINISHED = "finished.json"
"""Written last into a stage, and into the run folder: what is without it is not complete."""


def digest(value: Any) -> str:
    """Return a short hash of any JSON-serialisable value."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _digest(result: Any) -> str:
    """Return the digest of a result as it is read back."""
    return digest(json.loads(json.dumps(strict(result))))


def sweep(folder: Path) -> None:
    """Remove the temporary files that a process left which was killed while it wrote others."""
    for file in folder.glob(".*.partial"):
        if file.is_file():
            file.unlink(missing_ok=True)


class _Unfinished(Exception):
    """A stage has work to do."""


@dataclass(frozen=True)
class Stage:
    """One finished stage.

    Attributes:
        name: Name of the stage ("sft", "explore-1", ...).
        key: Hash of its settings and of the keys of the stages that it reads.
        path: Its folder.
        result: What the stage returned; JSON-serialisable.
        seconds: Wall time of its work, over all attempts but those that were killed outright.
        reused: Whether it was finished before this run.
    """

    name: str
    key: str
    path: Path
    result: Any
    seconds: float
    reused: bool


class RunFolder:
    """Runs stages once each; an interrupted run picks up where it stopped.

    A stage's folder is `stages/<name>-<key>`. The key hashes the stage's settings and the keys of
    its inputs, so a changed setting makes a new stage, and everything that depends on it, and
    leaves the rest as it is.

    Of several processes the first decides what is finished, and writes what this class writes.
    """

    def __init__(self, path: str | Path, processes: ProcessGroup | None = None) -> None:
        """Open or create the folder.

        Args:
            path: The folder; machines must share it.
            processes: Those that run the stages; each of them makes the same calls in the same
                order. By default there is this one.
        """
        self.path = Path(path)
        self.processes = processes or ProcessGroup()
        self.stages: list[Stage] = []
        self._looking = False
        self._made_ahead: set[str] = set()
        self.processes.first(lambda: (self.path / "stages").mkdir(parents=True, exist_ok=True))

    def run(
        self,
        name: str,
        work: Callable[[Path], Any],
        *,
        settings: Any,
        inputs: tuple[Stage, ...] = (),
        by_first: bool = False,
    ) -> Stage:
        """Return the stage, doing its work unless it is finished.

        Args:
            name: Name of the stage.
            work: Called with the stage's folder, which may hold what an interrupted attempt left;
                returns a JSON-serialisable result, of which that of the first process counts.
            settings: Whatever the stage's outcome depends on besides its inputs.
            inputs: Stages whose folders or results the work reads.
            by_first: Let the first process do the work, while the others wait. By default each
                process calls it, and they do it together.

        Raises:
            EtoGymError: The processes run the stage with different settings.
        """
        key = digest([name, settings, [stage.key for stage in inputs]])
        folder = self.path / "stages" / f"{name}-{key}"
        marker = folder / FINISHED
        if len(set(self.processes.each(lambda: key))) > 1:
            raise EtoGymError(
                f"the processes run {name} with different settings: start the same command with "
                "the same version everywhere"
            )
        if self._looking:
            if not self.processes.first(marker.exists):
                raise _Unfinished(name)
            return Stage(name, key, folder, None, 0.0, reused=True)
        reused = self.processes.first(lambda: self._open(folder, settings))
        if not reused:
            started = time.perf_counter()
            try:
                result = self.processes.first(lambda: work(folder)) if by_first else work(folder)
            finally:
                if self.processes.is_first:
                    with JsonlFile(folder / "attempts.jsonl") as attempts:
                        attempts.append({"seconds": time.perf_counter() - started})
            self.processes.first(lambda: self._finish(folder, key, result))
            release_memory()
        saved = self.processes.first(lambda: self._read(marker))
        self.processes.see(marker)
        reused = reused and key not in self._made_ahead
        stage = Stage(name, key, folder, saved["result"], saved["seconds"], reused)
        if self.processes.is_first:
            logger.info("%s %s (%.0f s)", "reused" if reused else "finished", name, stage.seconds)
        self.stages.append(stage)
        return stage

    def finished(self, stages: Callable[[], object]) -> bool:
        """Return whether all stages that a call runs are finished, and run none of them.

        Args:
            stages: Runs them; of a stage that is looked at there is no result.
        """
        self._looking = True
        try:
            with contextlib.suppress(_Unfinished):
                stages()
                return True
            return False
        finally:
            self._looking = False

    def made_ahead(self, keys: Iterable[str]) -> None:
        """Take stages for this run's own work that another process of it has finished."""
        self._made_ahead.update(keys)

    @staticmethod
    def _open(folder: Path, settings: Any) -> bool:
        """Return whether the stage is finished; make its folder if it is not."""
        if (folder / FINISHED).exists():
            return True
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)  # its digests would tell of what is in the way
        write_json(folder / "settings.json", settings)
        return False

    @staticmethod
    def _finish(folder: Path, key: str, result: Any) -> None:
        spent = 0.0
        for item in JsonlFile(folder / "attempts.jsonl").read():
            seconds = item.get("seconds") if isinstance(item, dict) else None
            spent += seconds if isinstance(seconds, float) and math.isfinite(seconds) else 0.0
        # A model has digests of its own, in its folder.
        write_digests(folder / DIGESTS_FILE, leave_out=("attempts.jsonl",), deep=False)
        told = {"key": key, "result": result, "seconds": spent, "digest": _digest(result)}
        write_json(folder / FINISHED, told)

    @staticmethod
    def _read(marker: Path) -> dict[str, Any]:
        remedy = f"delete {marker.parent} to redo it"
        saved = read_object(marker, remedy=remedy)
        seconds = saved.get("seconds")
        if "result" not in saved or not isinstance(seconds, int | float):
            raise DataError(f"{marker} is damaged (no result or time): {remedy}")
        # Older versions wrote none.
        if "digest" in saved and saved["digest"] != _digest(saved["result"]):
            raise DataError(f"{marker} is not as it was written: {remedy}")
        for digests in sorted(marker.parent.rglob(DIGESTS_FILE)):
            if (name := changed_since(digests)) is not None:
                raise DataError(f"{digests.parent / name} is not as it was written: {remedy}")
        return saved
