"""Turns of a conversation in the forms that tools write, read into one: speaker, words, mark.

A form is read where what it means is certain. Where it is not, an error names the turn and the key.
What is read otherwise than a reader may expect is counted by a note.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from eto_gym.conversation import parse_reply
from eto_gym.errors import DataError, unknown_name
from eto_gym.prompt import Message, Role

SPEAKERS: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "observation": "user",
    "environment": "user",
    "tool": "user",
    "function": "user",
    "function_response": "user",
    "tool_response": "user",
    "ipython": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "system": "system",
    "developer": "system",
}
"""Names of speakers, and who they are here; what a tool answers is an observation."""

CALLS = ("function_call", "tool_call", "tool_calls")
"""Speakers, and keys, of calls that a server takes out of the text: no text to train on."""

_SPEAKER_KEYS = ("role", "from")
_TEXT_KEYS = ("content", "value")
_MARK_KEYS = ("train", "training", "loss", "weight")
_REASONING_KEYS = ("reasoning", "reasoning_content")
_TEXT_PARTS = ("text", "input_text", "output_text")
_THOUGHT_FIRST = re.compile(r"\W{0,8}thought\b", re.IGNORECASE)

Notes = Counter[str]
"""What was read otherwise than it stands there, in words -> how often."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn.

    Attributes:
        role: Who speaks.
        content: The words.
        mark: What the file says about training on it; None where it says nothing.
        reasoning: Reasoning that stands beside the words.
        number: Its number in the file, from 1.
    """

    role: Role
    content: str
    mark: bool | None = None
    reasoning: str = ""
    number: int = 0


def without_nulls(record: dict[str, Any]) -> dict[str, Any]:
    """Return an object without the keys that are null: Arrow pads absent ones so."""
    return {key: value for key, value in record.items() if value is not None}


def read_turns(turns: Any, notes: Notes, *, after_prompt: bool = False) -> tuple[Turn, ...]:
    """Read a list of turns.

    Turns of the same speaker that follow each other become one where that is certain: observations
    in a row, and a thought with the action that follows it.

    Args:
        turns: The list.
        notes: Counts what was read otherwise.
        after_prompt: The turns continue a conversation: they may begin with a reply.

    Raises:
        DataError: A turn cannot be read, or the speakers do not alternate.
    """
    if not isinstance(turns, list):
        raise DataError(f"expected a list of turns, got {_kind(turns)}")
    read: list[Turn] = []
    for number, item in enumerate(turns, start=1):
        turn = _read_turn(item, number, notes)
        if turn.role == "assistant" and not read and not after_prompt:
            raise DataError(f"turn {number} is a reply, and nothing comes before it")
        if read and read[-1].role == turn.role:
            read[-1] = _joined(read[-1], turn, notes)
        else:
            read.append(turn)
    return tuple(read)


def to_messages(turns: Iterable[Turn], *, after_prompt: bool = False) -> tuple[Message, ...]:
    """Return turns as messages with marks.

    Where the file says nothing, every reply is marked, except one that comes first and holds no
    action: that is the acknowledgement of the instruction.
    """
    messages: list[Message] = []
    first_reply = not after_prompt
    for turn in turns:
        train = False
        if turn.role == "assistant":
            train = default_mark(turn.content, first_reply=first_reply)
            train = train if turn.mark is None else turn.mark
            first_reply = False
        messages.append(Message(turn.role, turn.content, train))
    return tuple(messages)


def default_mark(content: str, *, first_reply: bool) -> bool:
    """Whether a reply is trained on where the file says nothing."""
    return not first_reply or parse_reply(content) is not None


# --- one turn ------------------------------------------------------------------------------------


def _read_turn(item: Any, number: int, notes: Notes) -> Turn:
    if not isinstance(item, dict):
        raise DataError(f"turn {number}: expected an object, got {_kind(item)}")
    turn = without_nulls(item)
    for key in CALLS:
        if turn.get(key):
            raise DataError(f"turn {number}: {key!r} holds calls of tools, which are no text")
    role = _speaker(_one_of(turn, _SPEAKER_KEYS, number), number)
    content = _words(_one_of(turn, _TEXT_KEYS, number), number)
    mark = _mark(turn, number)
    if mark and role != "assistant":
        notes["a mark to train on what the agent did not say, which is not obeyed"] += 1
    if role == "assistant":
        if not content.strip():
            notes["an empty reply"] += 1
        if mark is False:
            notes["replies marked not to be trained on, which are not"] += 1
    reasoning = [turn[key] for key in _REASONING_KEYS if turn.get(key)]
    if any(not isinstance(text, str) for text in reasoning):
        raise DataError(f"turn {number}: expected a text as reasoning, got {reasoning!r:.80}")
    known = {*_SPEAKER_KEYS, *_TEXT_KEYS, *_MARK_KEYS, *_REASONING_KEYS, *CALLS}
    for key in turn.keys() - known:
        notes[f"the key {key!r:.60} of turns, which is not read"] += 1
    return Turn(role, content, mark, reasoning[0] if reasoning else "", number)


def _one_of(turn: dict[str, Any], keys: tuple[str, ...], number: int) -> tuple[str, Any]:
    """Return the key that a turn has, and its value; keys that say the same count as one."""
    found = [(key, turn[key]) for key in keys if key in turn]
    if not found:
        expected = " or ".join(map(repr, keys))
        raise DataError(
            f"turn {number}: expected {expected}, got the keys {', '.join(map(repr, turn)):.120}"
        )
    if any(value != found[0][1] for _, value in found[1:]):
        raise DataError(f"turn {number}: {keys[0]!r} and {keys[1]!r} contradict each other")
    return found[0]


def _speaker(found: tuple[str, Any], number: int) -> Role:
    key, name = found
    if not isinstance(name, str):
        raise DataError(f"turn {number}: expected a speaker as {key!r}, got {_kind(name)}")
    plain = name.strip().casefold()
    if plain in CALLS:
        raise DataError(f"turn {number}: {key} {name!r} is a call of a tool, which is no text")
    if plain not in SPEAKERS:
        raise DataError(f"turn {number}: {unknown_name(repr(key), name[:80], SPEAKERS)}")
    return SPEAKERS[plain]


def _words(found: tuple[str, Any], number: int) -> str:
    """Return a text, or the text of all parts."""
    key, content = found
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise DataError(f"turn {number}: expected a text as {key!r}, got {_kind(content)}")
    texts = []
    for part in content:
        text = part
        if isinstance(part, dict):
            kind = part.get("type", "text")
            if kind not in _TEXT_PARTS:
                raise DataError(f"turn {number}: {key!r} holds a part of type {kind!r:.60}")
            text = part.get("text")
        if not isinstance(text, str):
            raise DataError(f"turn {number}: {key!r} holds a part without a text")
        texts.append(text)
    return "".join(texts)


def _mark(turn: dict[str, Any], number: int) -> bool | None:
    """Return whether a turn is to be trained on, as its marks say."""
    marks: dict[str, bool] = {}
    for key in _MARK_KEYS:
        if key not in turn:
            continue
        value = turn[key]
        if isinstance(value, bool | int | float) and value in (0, 1):
            marks[key] = bool(value)
        else:
            raise DataError(
                f"turn {number}: expected {key} 0 or 1, or true or false: {value!r:.60}"
            )
    if len(set(marks.values())) > 1:
        raise DataError(f"turn {number}: {' and '.join(marks)} contradict each other")
    return next(iter(marks.values()), None)


def _joined(first: Turn, second: Turn, notes: Notes) -> Turn:
    """Make one turn of two of the same speaker.

    Raises:
        DataError: What they mean together is not certain.
    """
    if first.role == "assistant":
        thought_then_action = (
            _THOUGHT_FIRST.match(first.content)
            and parse_reply(first.content) is None
            and not _THOUGHT_FIRST.match(second.content)
            and parse_reply(second.content) is not None
            and first.mark == second.mark
        )
        if not thought_then_action:
            raise DataError(
                f"turn {second.number} is a second reply in a row: an observation must come between"
            )
        notes["a thought and its action in two turns, read as one reply"] += 1
    else:
        notes["turns of one speaker in a row, read as one"] += 1
    return replace(
        first,
        content=f"{first.content}\n{second.content}",
        reasoning="\n".join(filter(None, (first.reasoning, second.reasoning))),
    )


def _kind(value: Any) -> str:
    """Name what came, as JSON calls it."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return names.get(type(value), "nothing" if value is None else f"{value!r:.40}")
