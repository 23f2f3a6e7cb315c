"""Exchange formats: the paper's SFT and DPO files, and the Hugging Face conversational forms.

The paper's files are JSON lists: `{"id", "conversations": [{"from": "human"|"gpt", "value"}]}` for
SFT, and `{"id", "prompt": [...], "chosen": [...], "rejected": [...]}` with the same turns for DPO
(https://github.com/Yifan-Song793/ETO). The Hugging Face forms are `{"messages": [...]}` and
`{"prompt": [...], "chosen": [...], "rejected": [...]}` with `{"role", "content"}` turns.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from eto_gym.conversation import parse_reply
from eto_gym.errors import DataError, EtoGymError
from eto_gym.history import FULL, check_history
from eto_gym.prompt import ROLES, Message, Role
from eto_gym.trajectories.pairs import PreferencePair
from eto_gym.trajectories.record import Step, Trajectory
from eto_gym.trajectories.store import JsonlFile

logger = logging.getLogger(__name__)
T = TypeVar("T")

_TO_PAPER = {"user": "human", "assistant": "gpt", "system": "system"}
_FROM_PAPER: dict[str, Role] = {"human": "user", "gpt": "assistant", "system": "system"}

# --- turns ---------------------------------------------------------------------------------------


def to_paper_turns(messages: Iterable[Message]) -> list[dict[str, str]]:
    """Write messages as `{"from", "value"}` turns."""
    return [{"from": _TO_PAPER[m.role], "value": m.content} for m in messages]


def to_hf_turns(messages: Iterable[Message]) -> list[dict[str, str]]:
    """Write messages as `{"role", "content"}` turns."""
    return [{"role": m.role, "content": m.content} for m in messages]


def from_turns(turns: Any, *, after_prompt: bool = False) -> tuple[Message, ...]:
    """Read turns of either kind.

    Neither kind marks what to train on. Every assistant turn is marked, except one that comes
    first and holds no action: that is the acknowledgement of the instruction.

    Args:
        turns: A list of `{"from", "value"}` or `{"role", "content"}`.
        after_prompt: The turns continue a conversation, so that the first assistant turn cannot be
            an acknowledgement.

    Raises:
        DataError: Something else came.
    """
    if not isinstance(turns, list):
        raise DataError(f"expected a list of turns, got {type(turns).__name__}")
    messages: list[Message] = []
    first_reply = not after_prompt
    for number, turn in enumerate(turns):
        role, content = _read_turn(turn, number)
        train = False
        if role == "assistant":
            train = not first_reply or parse_reply(content) is not None
            first_reply = False
        messages.append(Message(role, content, train))
    return tuple(messages)


def _read_turn(turn: Any, number: int) -> tuple[Role, str]:
    if not isinstance(turn, dict):
        raise DataError(f"turn {number}: expected an object, got {type(turn).__name__}")
    if "from" in turn:
        role, content = _FROM_PAPER.get(turn["from"]), turn.get("value")
    else:
        role, content = turn.get("role"), turn.get("content")
    if role not in ROLES or not isinstance(content, str):
        raise DataError(f"turn {number}: expected a known speaker and a text, got {turn!r:.200}")
    return role, content


# --- trajectories --------------------------------------------------------------------------------


def to_paper_sft(trajectory: Trajectory) -> dict[str, Any]:
    """Write a trajectory as one record of the paper's SFT file."""
    return {"id": trajectory.task_id, "conversations": to_paper_turns(trajectory.messages)}


def to_hf_messages(trajectory: Trajectory) -> dict[str, Any]:
    """Write a trajectory as one record of the Hugging Face conversational form."""
    return {"id": trajectory.task_id, "messages": to_hf_turns(trajectory.messages)}


def read_demonstration(record: Any, *, reward: float = 1.0) -> Trajectory:
    """Read a record of the paper's SFT form or of the Hugging Face form as a demonstration.

    These forms hold no rewards. The trajectory is taken for a success with the given total
    `reward`, earned on its last step.

    Raises:
        DataError: The record has neither form, or no assistant turn.
    """
    if not isinstance(record, dict) or not ({"conversations", "messages"} & set(record)):
        raise DataError(f"expected 'conversations' or 'messages', got {record!r:.200}")
    turns = record["conversations"] if "conversations" in record else record["messages"]
    messages = from_turns(turns)
    while messages and messages[-1].role != "assistant":
        messages = messages[:-1]  # what follows the last reply teaches nothing
    replies = [i for i, message in enumerate(messages) if message.train]
    if not replies:
        raise DataError(f"record {record.get('id')!r} holds no assistant turn to learn from")
    steps = []
    for i in replies:
        reply = parse_reply(messages[i].content)
        last = i == replies[-1]
        steps.append(
            Step(
                action=reply.action if reply else None,
                observation="" if last else messages[i + 1].content,
                reward=reward if last else 0.0,
            )
        )
    return Trajectory(
        task_id=str(record.get("id", "")),
        task_type=str(record.get("task_type", "")),
        messages=messages,
        steps=tuple(steps),
        outcome="terminated",
        reward=reward,
        success=True,
        policy="imported",
    )


def read_trajectory(record: Any) -> Trajectory:
    """Read a stored trajectory, or a demonstration of either form.

    Raises:
        DataError: The record is none of them.
    """
    if isinstance(record, dict) and "messages" in record and "steps" in record:
        return Trajectory.from_json(record)
    return read_demonstration(record)


# --- preference pairs ----------------------------------------------------------------------------


def to_paper_dpo(pair: PreferencePair) -> dict[str, Any]:
    """Write a pair as one record of the paper's DPO file."""
    return {
        "id": pair.task_id,
        "prompt": to_paper_turns(pair.prompt),
        "chosen": to_paper_turns(pair.chosen),
        "rejected": to_paper_turns(pair.rejected),
        **_bounded_history(pair),
    }


def to_hf_preference(pair: PreferencePair) -> dict[str, Any]:
    """Write a pair as one record of the Hugging Face preference form."""
    return {
        "id": pair.task_id,
        "prompt": to_hf_turns(pair.prompt),
        "chosen": to_hf_turns(pair.chosen),
        "rejected": to_hf_turns(pair.rejected),
        **_bounded_history(pair),
    }


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


def _read_history(record: dict[str, Any], sides: dict[str, tuple[Message, ...]]) -> dict[str, Any]:
    history = record.get("history", FULL)
    if history == FULL:
        return {}
    try:
        check_history(str(history))
    except EtoGymError as err:
        raise DataError(f"record {record.get('id')!r}: {err}") from err
    head = record.get("head")
    states = {f"{name}_states": tuple(record.get(f"{name}_states", ())) for name in sides}
    for name, side in sides.items():
        texts, replies = states[f"{name}_states"], sum(m.role == "assistant" for m in side)
        wrong = not all(isinstance(text, str) for text in texts) or len(texts) not in (0, replies)
        if wrong or type(head) is not int or not 0 <= head < len(record["prompt"]):
            raise DataError(
                f"record {record.get('id')!r} with history {history!r}: expected the place of the "
                "first observation in the prompt as 'head', and a text for each reply in "
                f"'{name}_states', or none"
            )
    return {"history": history, "head": head, **states}


def read_pair(record: Any) -> PreferencePair:
    """Read a record of either preference form.

    Raises:
        DataError: A part is missing, or a side does not start with an assistant turn.
    """
    if not isinstance(record, dict):
        raise DataError(f"expected an object, got {type(record).__name__}")
    missing = {"prompt", "chosen", "rejected"} - set(record)
    if missing:
        raise DataError(f"record {record.get('id')!r} lacks {sorted(missing)}")
    sides = {name: from_turns(record[name], after_prompt=True) for name in ("chosen", "rejected")}
    for name, side in sides.items():
        if not side or side[0].role != "assistant":
            raise DataError(
                f"record {record.get('id')!r}: {name} must start with an assistant turn"
            )
    prompt = tuple(Message(m.role, m.content) for m in from_turns(record["prompt"]))
    return PreferencePair(
        task_id=str(record.get("id", "")),
        prompt=prompt,
        chosen=sides["chosen"],
        rejected=sides["rejected"],
        **_read_history(record, sides),
    )


# --- files ---------------------------------------------------------------------------------------


def read_records(path: str | Path, *, strict: bool = False) -> list[Any]:
    """Read a JSON list, or a JSONL file by its ending ".jsonl".

    Args:
        path: The file.
        strict: For JSONL, raise on a corrupt line instead of skipping it with a warning.

    Raises:
        DataError: The file is missing or is neither.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    if path.suffix == ".jsonl":
        return list(JsonlFile(path).read(strict=strict))
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as err:
        raise DataError(f"{path} is not JSON: {err}") from err
    if not isinstance(records, list):
        raise DataError(f"{path}: expected a JSON list, got {type(records).__name__}")
    return records


def read_demonstrations(
    path: str | Path, *, strict: bool = False
) -> tuple[list[Trajectory], list[int]]:
    """Read demonstrations: stored trajectories, or records of the paper's or Hugging Face's form.

    Args:
        path: A JSON list, or a JSONL file.
        strict: Raise on the first record that is none, instead of skipping it with a warning.

    Returns:
        The trajectories, and the numbers of what was skipped: lines of a JSONL file, items of a
        list, both from 1.

    Raises:
        DataError: The file is missing or is neither, or a record is corrupt and `strict` is set.
    """
    return _read_all(path, read_trajectory, strict=strict)


def read_pairs(path: str | Path, *, strict: bool = False) -> tuple[list[PreferencePair], list[int]]:
    """Read preference pairs of either form; arguments and result are as in `read_demonstrations`.

    Raises:
        DataError: The file is missing or is neither, or a record is corrupt and `strict` is set.
    """
    return _read_all(path, read_pair, strict=strict)


def _read_all(
    path: str | Path, parse: Callable[[Any], T], *, strict: bool
) -> tuple[list[T], list[int]]:
    path = Path(path)
    lines = JsonlFile(path)
    if path.suffix == ".jsonl" and path.is_file():
        records = list(lines.numbered(strict=strict))
    else:
        records = list(enumerate(read_records(path), start=1))
    parsed: list[T] = []
    skipped = list(lines.corrupt_lines)
    for number, record in records:
        try:
            parsed.append(parse(record))
        except DataError as err:
            if strict:
                raise DataError(f"{path}:{number}: {err}") from err
            logger.warning("%s:%d: skipping a corrupt record (%s)", path, number, err)
            skipped.append(number)
    if skipped:
        logger.warning("%s: skipped %d of %d", path, len(skipped), len(skipped) + len(parsed))
    return parsed, sorted(skipped)
