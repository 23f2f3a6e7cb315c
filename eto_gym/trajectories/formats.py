"""Exchange formats: the paper's SFT and DPO files, and the Hugging Face conversational forms.

The paper's files are JSON lists: `{"id", "conversations": [{"from": "human"|"gpt", "value"}]}` for
SFT, and `{"id", "prompt": [...], "chosen": [...], "rejected": [...]}` with the same turns for DPO
(https://github.com/Yifan-Song793/ETO). The Hugging Face forms are `{"messages": [...]}` and
`{"prompt": [...], "chosen": [...], "rejected": [...]}` with `{"role", "content"}` turns.

Written are these forms; read are, beside them, those of `docs/data.md`. A reply that is not to be
trained on, or is against expectation, has a mark: `"loss"` as in AgentGym's files, `"weight"` as in
OpenAI's.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from eto_gym.errors import DataError
from eto_gym.history import FULL
from eto_gym.prompt import Message
from eto_gym.trajectories.demonstrations import is_stored, read_demonstration, read_trajectory
from eto_gym.trajectories.numbers import is_number
from eto_gym.trajectories.pairs import PreferencePair
from eto_gym.trajectories.preferences import is_pair, read_pair
from eto_gym.trajectories.record import Trajectory
from eto_gym.trajectories.turns import Notes, default_mark, read_turns, to_messages
from eto_gym.trajectories.values import read_values

__all__ = [
    "ReadReport",
    "SampleNumbers",
    "from_turns",
    "is_pair",
    "read_demonstration",
    "read_demonstrations",
    "read_pair",
    "read_pairs",
    "read_records",
    "read_trajectory",
    "to_hf_messages",
    "to_hf_preference",
    "to_hf_turns",
    "to_paper_dpo",
    "to_paper_sft",
    "to_paper_turns",
]

logger = logging.getLogger(__name__)
T = TypeVar("T")

_TO_PAPER = {"user": "human", "assistant": "gpt", "system": "system"}
_LOGGED = 20
"""Skipped records that are logged one by one; the report holds all."""

# --- turns ---------------------------------------------------------------------------------------


def to_paper_turns(
    messages: Iterable[Message], *, after_prompt: bool = False
) -> list[dict[str, Any]]:
    """Write messages as `{"from", "value"}` turns; those of a continuation are `after_prompt`."""
    return [
        {"from": _TO_PAPER[m.role], "value": m.content, **({} if mark is None else {"loss": mark})}
        for m, mark in _with_marks(messages, after_prompt=after_prompt)
    ]


def to_hf_turns(messages: Iterable[Message], *, after_prompt: bool = False) -> list[dict[str, Any]]:
    """Write messages as `{"role", "content"}` turns; those of a continuation are `after_prompt`."""
    return [
        {"role": m.role, "content": m.content, **({} if mark is None else {"weight": int(mark)})}
        for m, mark in _with_marks(messages, after_prompt=after_prompt)
    ]


def _with_marks(
    messages: Iterable[Message], *, after_prompt: bool
) -> Iterator[tuple[Message, bool | None]]:
    """Yield messages with their mark, where a reader would not expect it."""
    first_reply = not after_prompt
    for message in messages:
        mark = None
        if message.role == "assistant":
            expected = default_mark(message.content, first_reply=first_reply)
            mark = None if message.train == expected else message.train
            first_reply = False
        yield message, mark


def from_turns(turns: Any, *, after_prompt: bool = False) -> tuple[Message, ...]:
    """Read turns of either kind.

    Where no mark says what to train on, every assistant turn is marked, except one that comes
    first and holds no action: that is the acknowledgement of the instruction.

    Args:
        turns: A list of `{"from", "value"}` or `{"role", "content"}`.
        after_prompt: The turns continue a conversation, so that the first assistant turn cannot be
            an acknowledgement.

    Raises:
        DataError: Something else came.
    """
    return to_messages(
        read_turns(turns, Notes(), after_prompt=after_prompt), after_prompt=after_prompt
    )


# --- records -------------------------------------------------------------------------------------


def to_paper_sft(trajectory: Trajectory) -> dict[str, Any]:
    """Write a trajectory as one record of the paper's SFT file."""
    return {"id": trajectory.task_id, "conversations": to_paper_turns(trajectory.messages)}


def to_hf_messages(trajectory: Trajectory) -> dict[str, Any]:
    """Write a trajectory as one record of the Hugging Face conversational form."""
    return {"id": trajectory.task_id, "messages": to_hf_turns(trajectory.messages)}


def to_paper_dpo(pair: PreferencePair) -> dict[str, Any]:
    """Write a pair as one record of the paper's DPO file; a single side as a completion."""
    if not (pair.chosen and pair.rejected):
        return to_hf_preference(pair)
    return {
        "id": pair.task_id,
        "prompt": [{"from": _TO_PAPER[m.role], "value": m.content} for m in pair.prompt],
        "chosen": to_paper_turns(pair.chosen, after_prompt=True),
        "rejected": to_paper_turns(pair.rejected, after_prompt=True),
        **_values(pair),
        **_bounded_history(pair),
    }


def to_hf_preference(pair: PreferencePair) -> dict[str, Any]:
    """Write a pair as one record of the Hugging Face preference form.

    A side that stands by itself becomes a completion with a label, as TRL's KTO has it.
    """
    if not (pair.chosen and pair.rejected):
        return {
            "id": pair.task_id,
            "prompt": [{"role": m.role, "content": m.content} for m in pair.prompt],
            "completion": to_hf_turns(pair.chosen or pair.rejected, after_prompt=True),
            "label": bool(pair.chosen),
            **_bounded_history(pair),
        }
    return {
        "id": pair.task_id,
        "prompt": [{"role": m.role, "content": m.content} for m in pair.prompt],
        "chosen": to_hf_turns(pair.chosen, after_prompt=True),
        "rejected": to_hf_turns(pair.rejected, after_prompt=True),
        **_bounded_history(pair),
    }


def _values(pair: PreferencePair) -> dict[str, float]:
    """Write what the sides are worth, which reading takes for their rewards.

    Of a pair of steps that is their value; of another the rewards of its episodes, which are the
    scores of a pair that was read. Scores that contradict the choice no reader takes.
    """
    told: dict[str, float] = {}
    for side in ("chosen", "rejected"):
        worth = pair.info.get(f"{side}_value", pair.info.get(f"{side}_reward"))
        if worth is not None and is_number(worth):
            told[f"score_{side}"] = worth
    contradicted = len(told) == 2 and told["score_chosen"] < told["score_rejected"]
    return {} if contradicted else told


def _bounded_history(pair: PreferencePair) -> dict[str, Any]:
    """Write what tells which part of the conversation each reply was given to, if not all."""
    if pair.history == FULL:
        return {}
    return {
        "history": pair.history,
        "head": pair.head,
        "chosen_states": list(pair.chosen_states),
        "rejected_states": list(pair.rejected_states),
    }


# --- files ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class ReadReport:
    """What became of every record of a file.

    Attributes:
        path: The file.
        unit: What numbers count: "line" or "record", from 1.
        records: Records in the file, those that were skipped included.
        skipped: Number and reason of every record that was not read.
        notes: What was read otherwise than it stands there, in words -> in how many records.
    """

    path: str = ""
    unit: str = "record"
    records: int = 0
    skipped: list[tuple[int, str]] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)

    def lines(self) -> Iterator[str]:
        """Yield the report as lines of text; nothing where all was read as it stands there."""
        if self.skipped:
            numbers = [number for number, _ in self.skipped]
            yield (
                f"{self.path}: skipped {len(numbers)} records or lines, the first: {numbers[:5]}"
            )
        for note, count in sorted(self.notes.items()):
            yield f"{self.path}: in {count} of {self.records} records: {note}"


def read_records(path: str | Path, *, strict: bool = False) -> list[Any]:
    """Read the records of a JSON list or of JSON Lines, whatever the file's name.

    Args:
        path: The file.
        strict: Raise on a damaged line or record instead of skipping it with a warning.

    Raises:
        DataError: The file is missing or is neither.
    """
    return _read_all(path, lambda record, _: record, strict=strict, report=ReadReport())[0]


class SampleNumbers:
    """Numbers the samples of each task in a file whose records do not."""

    def __init__(self) -> None:
        """Begin with none."""
        self._counts: Counter[str] = Counter()

    def __call__(self, record: Any, trajectory: Trajectory) -> Trajectory:
        """Return what was read from a record; one that names no sample has the task's next."""
        if is_stored(record):
            return trajectory
        number = self._counts[trajectory.task_id]
        self._counts[trajectory.task_id] += 1
        named = record.get("sample") is not None
        return trajectory if named else replace(trajectory, sample=number)


def read_demonstrations(
    path: str | Path, *, strict: bool = False, report: ReadReport | None = None
) -> tuple[list[Trajectory], list[int]]:
    """Read demonstrations: stored trajectories, or conversations of other tools.

    Conversations that share an identity become samples of one task, in the order of the file.

    Args:
        path: A JSON list or JSON Lines; see `docs/data.md`.
        strict: Raise on the first record that is none, instead of skipping it with a warning.
        report: Is told what became of every record.

    Returns:
        The trajectories, and the numbers of what was skipped: lines of a JSONL file, items of a
        list, both from 1.

    Raises:
        DataError: The file is missing or is neither, or a record is corrupt and `strict` is set.
    """
    report = ReadReport() if report is None else report
    seen: set[tuple[Any, ...]] = set()
    numbered = SampleNumbers()

    def parse(record: Any, notes: Notes) -> Trajectory:
        trajectory = read_trajectory(record, notes=notes)
        if is_stored(record):
            return trajectory
        said = (trajectory.task_id, trajectory.messages, trajectory.reward, trajectory.success)
        if said in seen:
            notes["the same as an earlier record"] += 1
        seen.add(said)
        return numbered(record, trajectory)

    return _read_all(path, parse, strict=strict, report=report)


def read_pairs(
    path: str | Path, *, strict: bool = False, report: ReadReport | None = None
) -> tuple[list[PreferencePair], list[int]]:
    """Read preference pairs; arguments and result are as in `read_demonstrations`.

    Raises:
        DataError: The file is missing or is neither, or a record is corrupt and `strict` is set.
    """
    report = ReadReport() if report is None else report
    return _read_all(
        path, lambda record, notes: read_pair(record, notes=notes), strict=strict, report=report
    )


def _read_all(
    path: str | Path, parse: Callable[[Any, Notes], T], *, strict: bool, report: ReadReport
) -> tuple[list[T], list[int]]:
    found = read_values(path)
    report.path, report.unit = str(path), found.unit
    report.records = len(found.values) + len(found.damaged)
    parsed: list[T] = []

    def skip(number: int, what: str, reason: str) -> None:
        if strict:
            raise DataError(f"{found.place(number)}: {reason}")
        if len(report.skipped) < _LOGGED:
            logger.warning("%s: skipping a corrupt %s (%s)", found.place(number), what, reason)
        report.skipped.append((number, reason))

    for number, reason in found.damaged:
        skip(number, found.unit, reason)
    for number, record in found.values:
        notes = Notes()
        try:
            parsed.append(parse(record, notes))
        except (DataError, RecursionError) as err:
            skip(number, "record", str(err))
            continue
        report.notes.update(notes.keys())
    for key in found.outside:
        report.notes[f"the key {key!r:.60} around the records, which is not read"] = len(parsed)
    report.skipped.sort()
    if report.skipped:
        logger.warning("%s: skipped %d of %d", path, len(report.skipped), report.records)
    return parsed, [number for number, _ in report.skipped]
