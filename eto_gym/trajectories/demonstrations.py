"""Records of other tools as trajectories: what a record says of itself is kept."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any, get_args

from eto_gym.conversation import parse_reply
from eto_gym.errors import DataError
from eto_gym.prompt import Message
from eto_gym.trajectories.lines import check_seal
from eto_gym.trajectories.numbers import is_number
from eto_gym.trajectories.other_forms import from_adp, from_alpaca, is_adp, is_alpaca
from eto_gym.trajectories.record import ErrorKind, Outcome, Step, Trajectory
from eto_gym.trajectories.turns import Notes, Turn, read_turns, to_messages, without_nulls

CONVERSATION_KEYS = ("messages", "conversations", "conversation")
ID_KEYS = ("task_id", "item_id", "id")

_KNOWN = {
    *CONVERSATION_KEYS,
    *ID_KEYS,
    "system",
    "reward",
    "success",
    "task_type",
    "policy",
    "sample",
    "seed",
    "outcome",
    "error",
}


def is_stored(record: Any) -> bool:
    """Whether a record has the form of a trajectory as the store writes it."""
    return (
        isinstance(record, dict)
        and {"messages", "steps", "outcome"} <= record.keys()
        and isinstance(record["steps"], list)
    )


def read_demonstration(
    record: Any, *, reward: float = 1.0, notes: Notes | None = None
) -> Trajectory:
    """Read a conversation of another tool as a trajectory.

    It has turns (`messages`, `conversations` or `conversation`; or the steps of the Agent Data
    Protocol, or alpaca's `instruction` and `output`), perhaps a `system` text before
    them, an identity (`task_id`, `item_id` or `id`), and what an episode has: `reward`, `success`,
    `task_type`, `policy`, `sample`, `seed`, `outcome`, `error`. A record without reward and success
    is a demonstration: it is taken for a success with the given `reward`. With a reward alone it is
    a success from 1 on; with success alone its reward is 1 or 0. The reward is earned on the last
    step.

    Args:
        record: The parsed JSON.
        reward: Reward of a record that says nothing of how it went.
        notes: Counts what was read otherwise than it stands there.

    Raises:
        DataError: The record has another form, holds no reply to learn from, or contradicts itself.
    """
    notes = Notes() if notes is None else notes
    if not isinstance(record, dict):
        raise DataError(f"expected 'conversations' or 'messages', got {record!r:.200}")
    fields = without_nulls(record)
    if not any(key in fields for key in CONVERSATION_KEYS):
        if is_adp(fields):
            fields = from_adp(fields, notes)
        elif is_alpaca(fields):
            fields = from_alpaca(fields)
    turns = _with_system(read_turns(_turns(fields), notes), fields)
    messages = to_messages(turns)
    for key in fields.keys() - _KNOWN:
        notes[f"the key {key!r:.60}, which is not read"] += 1
    task_id = identity(fields) or _name_after(messages, notes)
    last = max((i for i, m in enumerate(messages) if m.role == "assistant"), default=-1)
    replies = _replies(messages)
    if not replies or not any(message.train for message in messages):
        marked = any(turn.mark is False for turn in turns)
        raise DataError(
            f"record {task_id!r} holds no assistant turn to learn from"
            + (": each is marked not to be trained on" if marked else "")
        )
    earned, success = _result(fields, reward)
    outcome, error = _ending(fields)
    reasoning = tuple(turns[i].reasoning for i in replies)
    return Trajectory(
        task_id=task_id,
        task_type=_text(fields, "task_type"),
        messages=messages[: last + 1],
        steps=_steps(messages, replies, earned),
        outcome=outcome,
        error=error,
        reward=earned,
        success=success and error is None,
        policy=_text(fields, "policy") or "imported",
        sample=_count(fields, "sample"),
        seed=_count(fields, "seed"),
        reasoning=reasoning if any(reasoning) else (),
    )


def read_trajectory(record: Any, *, notes: Notes | None = None) -> Trajectory:
    """Read a stored trajectory, or a conversation of another tool (see `read_demonstration`).

    Raises:
        DataError: The record is none of them.
    """
    if not is_stored(record):
        return read_demonstration(record, notes=notes)
    trajectory = Trajectory.from_json(record)
    try:
        check_seal(record)
    except DataError:  # a user may change what is his
        if notes is not None:
            notes["changed since it was written: its digest is that of another record"] += 1
    return trajectory


def identity(fields: dict[str, Any]) -> str:
    """Return what a record says that it is; "" where it says nothing.

    Raises:
        DataError: It is neither a text nor a number.
    """
    for key in ID_KEYS:
        value = fields.get(key)
        if value is None or value == "":
            continue
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise DataError(f"expected a text or a number as {key!r}, got {value!r:.80}")
        if isinstance(value, float) and not math.isfinite(value):
            raise DataError(f"expected a text or a number as {key!r}, got {value}")
        return str(value)
    return ""


def _turns(fields: dict[str, Any]) -> Any:
    """Return the turns of a record.

    Raises:
        DataError: It has none, or two lists of them that differ.
    """
    found = [key for key in CONVERSATION_KEYS if key in fields]
    if not found:
        keys = ", ".join(map(repr, fields)) or "none"
        raise DataError(f"expected 'conversations' or 'messages', got the keys {keys:.200}")
    if any(fields[key] != fields[found[0]] for key in found[1:]):
        raise DataError(f"{' and '.join(map(repr, found))} contradict each other")
    return fields[found[0]]


def _with_system(turns: tuple[Turn, ...], fields: dict[str, Any]) -> tuple[Turn, ...]:
    """Put a record's system text before its turns."""
    text = _text(fields, "system")
    if not text:
        return turns
    if turns and turns[0].role == "system":
        if turns[0].content == text:
            return turns
        raise DataError("'system' and the first turn contradict each other")
    return (Turn("system", text), *turns)


def _replies(messages: Sequence[Message]) -> list[int]:
    """Return where the agent's own turns are: all replies but the acknowledgement."""
    replies = [i for i, message in enumerate(messages) if message.role == "assistant"]
    first = messages[replies[0]] if replies else None
    acknowledged = first and not first.train and parse_reply(first.content) is None
    return replies[1:] if acknowledged else replies


def _steps(messages: Sequence[Message], replies: list[int], reward: float) -> tuple[Step, ...]:
    steps = []
    for i in replies:
        reply = parse_reply(messages[i].content)
        seen = messages[i + 1].content if i + 1 < len(messages) else ""
        earned = reward if i == replies[-1] else 0.0
        steps.append(Step(reply.action if reply else None, seen, earned))
    return tuple(steps)


def _name_after(messages: tuple[Message, ...], notes: Notes) -> str:
    """Name a record without an identity after its prompt: what begins alike is one task."""
    notes["no id, so that it is named after its prompt"] += 1
    first = next((i for i, message in enumerate(messages) if message.train), len(messages))
    text = json.dumps([[message.role, message.content] for message in messages[:first]])
    return f"prompt-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _result(fields: dict[str, Any], default: float) -> tuple[float, bool]:
    """Return reward and success."""
    reward, success = fields.get("reward"), fields.get("success")
    if isinstance(success, int | float) and not isinstance(success, bool) and success in (0, 1):
        success = bool(success)  # as tables write it
    if success is not None and not isinstance(success, bool):
        raise DataError(f"expected true or false as 'success', got {success!r:.80}")
    if reward is None:
        if success is None:
            return default, True
        return float(success), success
    earned = number(reward, "reward")
    return earned, earned >= 1 if success is None else success


def number(value: Any, name: str) -> float:
    """Return a finite number.

    Raises:
        DataError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"expected a number as {name!r}, got {value!r:.80}")
    if not is_number(value):
        raise DataError(f"expected a finite number as {name!r}, got {str(value)[:80]}")
    return float(value)


def _ending(fields: dict[str, Any]) -> tuple[Outcome, ErrorKind | None]:
    outcome, error = fields.get("outcome", "terminated"), fields.get("error")
    if outcome not in get_args(Outcome) or not (error is None or error in get_args(ErrorKind)):
        raise DataError(f"unknown outcome {outcome!r:.60} or error {error!r:.60}")
    return outcome, error


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name, "")
    if not isinstance(value, str):
        raise DataError(f"expected a text as {name!r}, got {value!r:.80}")
    return value


def _count(fields: dict[str, Any], name: str) -> int:
    value = fields.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise DataError(f"expected a number from 0 as {name!r}, got {value!r:.80}")
    return value
