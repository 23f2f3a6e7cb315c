"""Reads files of trajectories or pairs and writes them in another tool's form."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from eto_gym.errors import EtoGymError, check_choice
from eto_gym.export.atif import write_atif
from eto_gym.export.datasets import write_pairs, write_trajectories
from eto_gym.export.inspect_log import write_inspect
from eto_gym.export.rows import preference_rows, reply_rows, sharegpt_pair, sharegpt_turns
from eto_gym.files import locked, write_json
from eto_gym.trajectories import PreferencePair, Trajectory
from eto_gym.trajectories.formats import (
    ReadReport,
    is_pair,
    read_demonstrations,
    read_pairs,
    read_records,
)

FORMS = {
    "hf": "a folder that `datasets.load_dataset` opens: trajectories or pairs",
    "trl": "rows for TRL: a preference per pair, where its sides part, or a prompt and its reply",
    "inspect": "logs that `inspect view` shows: trajectories (extra `inspect`)",
    "atif": "a folder of ATIF files, one per trajectory",
    "sharegpt": "ShareGPT as LLaMA-Factory and axolotl read it: conversations or ranked replies",
}
"""Name of a form -> what is written."""


@dataclass(slots=True)
class Exported:
    """What was written.

    Attributes:
        out: The file or folder.
        wrote: What it holds, in words -> how many.
        left_out: Reason -> how many.
        read: What was skipped, or read otherwise than it stands there, a line for each thing.
    """

    out: Path
    wrote: dict[str, int]
    left_out: Counter[str] = field(default_factory=Counter)
    read: list[str] = field(default_factory=list)


def export(
    files: Sequence[str | Path], form: str, out: str | Path, *, failures: bool = False
) -> Exported:
    """Write trajectories or pairs in another form.

    Args:
        files: Files of trajectories, or files of pairs, as `docs/data.md` describes them.
        form: One of `FORMS`.
        out: File or folder to write; it may not be there yet.
        failures: Also write episodes that did not succeed where rows are for imitation ("trl"
            and "sharegpt"). The other forms always hold all, with their scores.

    Raises:
        EtoGymError: The form is unknown, does not hold what came, or `out` is there already.
        DataError: A file cannot be read.
    """
    check_choice("--to", form, FORMS)
    out = Path(out)
    if out.exists():
        raise EtoGymError(f"{out} is there already: name another --out, or remove it")
    if not files:
        raise EtoGymError("expected at least one file of trajectories or pairs")
    kinds = {_holds_pairs(path) for path in files}
    if len(kinds) > 1:
        raise EtoGymError("expected files of trajectories or files of pairs, got both")
    reports = [ReadReport() for _ in files]
    told = list(zip(files, reports, strict=True))
    if kinds == {True}:
        pairs = [pair for path, report in told for pair in read_pairs(path, report=report)[0]]
        done = _export_pairs(pairs, form, out)
    else:
        episodes = [e for path, report in told for e in read_demonstrations(path, report=report)[0]]
        done = _export_trajectories(episodes, form, out, failures=failures)
    done.read = [line for report in reports for line in report.lines()]
    return done


def _holds_pairs(path: str | Path) -> bool:
    records = read_records(path)
    if not records:
        raise EtoGymError(f"{path} holds no record")
    return is_pair(records[0])


def _export_pairs(pairs: Sequence[PreferencePair], form: str, out: Path) -> Exported:
    if form in ("inspect", "atif"):
        raise EtoGymError(f"--to {form} takes trajectories, and these are pairs")
    if form == "hf":
        with _whole(out) as part:
            write_pairs(pairs, part)
        return Exported(out, {"pairs": len(pairs)})
    left: Counter[str] = Counter()
    rows = preference_rows(pairs, left)
    if form == "sharegpt":
        rows = [sharegpt_pair(row) for row in rows]
    what = "per-step preferences (the first reply in which the sides part)"
    return _rows(out, rows, what, left)


def _export_trajectories(
    episodes: Sequence[Trajectory], form: str, out: Path, *, failures: bool
) -> Exported:
    whole: dict[str, Callable[[Sequence[Trajectory], Path], None]] = {
        "hf": write_trajectories,
        "inspect": write_inspect,
        "atif": write_atif,
    }
    if form in whole:
        with _whole(out) as part:
            whole[form](episodes, part)
        return Exported(out, {"trajectories": len(episodes)})
    left: Counter[str] = Counter()
    chosen = []
    for episode in episodes:
        if episode.failed_to_run:
            left["episodes that failed to run"] += 1
        elif not (episode.success or failures):
            left["episodes without success (--failures writes them)"] += 1
        else:
            chosen.append(episode)
    if form == "sharegpt":
        rows = [sharegpt_turns(episode.messages, episode.task_id) for episode in chosen]
        return _rows(out, rows, "conversations", left)
    return _rows(out, reply_rows(chosen), "prompts with the reply to each", left)


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """Yield a name beside a folder's; what is made there becomes the folder, or is removed.

    What a killed export has left there is removed, too: its lock ended with it.
    """
    prefix = f".{folder.name}.part-"
    folder.parent.mkdir(parents=True, exist_ok=True)
    for other in list(folder.parent.iterdir()):
        if other.name.startswith(prefix) and other.is_dir() and not other.is_symlink():
            # One that is another user's, or gone by now, cannot be opened.
            with suppress(OSError), locked(other) as free:
                if free:
                    shutil.rmtree(other, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        with locked(work):
            yield work / "whole"
            (work / "whole").rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _rows(out: Path, rows: list[dict[str, object]], what: str, left: Counter[str]) -> Exported:
    if not rows:
        told = "".join(f"; left out: {count} {reason}" for reason, count in left.items())
        raise EtoGymError(f"nothing to write{told}")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, rows)
    return Exported(out, {what: len(rows)}, left)
