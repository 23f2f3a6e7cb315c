"""Preference pairs of other tools: two continuations of one conversation, however they are cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from eto_gym.errors import DataError, EtoGymError
from eto_gym.history import FULL, check_history
from eto_gym.prompt import Message
from eto_gym.trajectories.demonstrations import CONVERSATION_KEYS, identity, number
from eto_gym.trajectories.other_forms import from_alpaca, is_alpaca
from eto_gym.trajectories.pairs import PreferencePair
from eto_gym.trajectories.turns import Notes, Turn, read_turns, to_messages, without_nulls

SIDES = ("chosen", "rejected")
_SCORES = {"chosen": "score_chosen", "rejected": "score_rejected"}
_KNOWN = {*CONVERSATION_KEYS, *SIDES, *_SCORES.values(), "prompt", "system", "id", "task_id"}
_ALONE = {"completion", "label"}
_OWN = {"history", "head", "chosen_states", "rejected_states", "item_id"}


def read_pair(record: Any, *, notes: Notes | None = None) -> PreferencePair:
    """Read a pair.

    `chosen` and `rejected` are lists of turns, one turn, or a text. `prompt` (or the turns of
    `conversations`, as LLaMA-Factory has it, or `messages`, as axolotl; `question`; or alpaca's
    `instruction`, `input` and `history`) is a list of turns or a text, or missing: then it is
    what both sides begin with, as in TRL. Sides that repeat the prompt are read without it.
    `score_chosen` and `score_rejected` become rewards; they may not contradict the choice.

    A `completion` with a `label` (true: good) in place of the sides, as TRL's KTO has it, becomes a
    pair with that side alone.

    Args:
        record: The parsed JSON.
        notes: Counts what was read otherwise than it stands there.

    Raises:
        DataError: A part is missing or cannot be read, or a side does not start with a reply.
    """
    notes = Notes() if notes is None else notes
    if not isinstance(record, dict):
        raise DataError(f"expected an object, got {type(record).__name__}")
    fields = _asked(without_nulls(record))
    name = f"record {record.get('id')!r:.80}"
    alone = "completion" in fields and not any(key in fields for key in SIDES)
    if alone:
        if not isinstance(fields.get("label"), bool):
            raise DataError(f"{name}: expected label true or false beside the completion")
        good = fields["label"]
        fields[SIDES[not good]] = fields["completion"]
    wanted = SIDES if not alone else (SIDES[not good],)
    missing = [key for key in wanted if key not in fields]
    if missing:
        raise DataError(f"{name} lacks {missing}")
    sides = {key: _side(fields, key, notes) for key in wanted}
    prompt = _prompt(fields, notes)
    if prompt is None and alone:
        raise DataError(f"{name} lacks ['prompt']")
    if prompt is None:
        prompt = _common(sides["chosen"], sides["rejected"])
        if not prompt:
            raise DataError(f"{name} lacks ['prompt'], and the sides do not begin alike")
    for key, side in sides.items():
        if prompt and side[: len(prompt)] == prompt:
            side = side[len(prompt) :]
        if not side or side[0].role != "assistant":
            raise DataError(f"{name}: {key} must start with an assistant turn")
        sides[key] = side
    if prompt and prompt[-1].role == "assistant":
        raise DataError(f"{name}: the prompt ends with a reply, and the sides begin with one")
    if not prompt:
        raise DataError(f"{name}: the prompt is empty")
    for key in fields.keys() - _KNOWN - _OWN - (_ALONE if alone else set()):
        notes[f"the key {key!r:.60}, which is not read"] += 1
    plain = [replace(turn, mark=None) for turn in prompt]
    continuations = {key: to_messages(side, after_prompt=True) for key, side in sides.items()}
    return PreferencePair(
        task_id=identity(fields),
        prompt=tuple(Message(m.role, m.content) for m in to_messages(plain)),
        chosen=continuations.get("chosen", ()),
        rejected=continuations.get("rejected", ()),
        info=_scores(fields, name),
        **_history(fields, len(prompt), continuations),
    )


def is_pair(record: Any) -> bool:
    """Whether a record has the sides of a pair."""
    if not isinstance(record, dict):
        return False
    alone = all(record.get(key) is not None for key in _ALONE)
    return alone or any(record.get(key) is not None for key in SIDES)


def _asked(fields: dict[str, Any]) -> dict[str, Any]:
    """Return a record whose prompt stands under the name that others have for it as `prompt`."""
    if any(key in fields for key in ("prompt", *CONVERSATION_KEYS)):
        return fields
    if is_alpaca(fields):
        return from_alpaca(fields, pair=True)
    if "question" in fields:
        return {
            **{k: v for k, v in fields.items() if k != "question"},
            "prompt": fields["question"],
        }
    return fields


def _side(fields: dict[str, Any], key: str, notes: Notes) -> tuple[Turn, ...]:
    value = fields[key]
    try:
        if isinstance(value, str):
            return (Turn("assistant", value, number=1),)
        turns = [value] if isinstance(value, dict) else value
        return _bare(read_turns(turns, notes, after_prompt=True))
    except DataError as err:
        raise DataError(f"{key}: {err}") from err


def _prompt(fields: dict[str, Any], notes: Notes) -> tuple[Turn, ...] | None:
    """Return the prompt; None where the record leaves it to the sides."""
    found = [key for key in ("prompt", *CONVERSATION_KEYS) if key in fields]
    # Sets in the manner of UltraFeedback have the chosen conversation once more as `messages`.
    if len(found) > 1 and found[0] == "prompt":
        if any(fields[key] != fields["chosen"] for key in found[1:]):
            raise DataError(f"{' and '.join(map(repr, found))} contradict each other")
        found = found[:1]
    if len(found) > 1:
        raise DataError(f"{' and '.join(map(repr, found))} contradict each other")
    system = fields.get("system", "")
    if not isinstance(system, str):
        raise DataError(f"expected a text as 'system', got {system!r:.80}")
    before = (Turn("system", system),) if system else ()
    if not found:
        if before:
            raise DataError("'system' without a 'prompt' to stand before")
        return None
    value = fields[found[0]]
    if isinstance(value, str):
        return (*before, Turn("user", value))
    try:
        return (*before, *_bare(read_turns(value, notes)))
    except DataError as err:
        raise DataError(f"{found[0]}: {err}") from err


def _common(chosen: Sequence[Turn], rejected: Sequence[Turn]) -> tuple[Turn, ...]:
    """Return what both sides begin with, up to the reply in which they part."""
    same = 0
    while same < min(len(chosen), len(rejected)) and chosen[same] == rejected[same]:
        same += 1
    while same and (same == len(chosen) or chosen[same].role != "assistant"):
        same -= 1
    return tuple(chosen[:same])


def _bare(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """Drop what tells where a turn stood, so that equal turns are equal."""
    return tuple(replace(turn, number=0) for turn in turns)


def _scores(fields: dict[str, Any], name: str) -> dict[str, Any]:
    scores = {side: number(fields[key], key) for side, key in _SCORES.items() if key in fields}
    if len(scores) == 2 and scores["chosen"] < scores["rejected"]:
        raise DataError(
            f"{name}: score_chosen {scores['chosen']:g} is below score_rejected "
            f"{scores['rejected']:g}"
        )
    return {f"{side}_reward": score for side, score in scores.items()}


def _history(
    record: dict[str, Any], prompt: int, sides: dict[str, tuple[Message, ...]]
) -> dict[str, Any]:
    """Read which part of the conversation each reply was given to."""
    history = record.get("history", FULL)
    if history == FULL:
        return {}
    try:
        check_history(str(history))
    except EtoGymError as err:
        raise DataError(f"record {record.get('id')!r:.80}: {err}") from err
    head = record.get("head")
    states: dict[str, Any] = {}
    for name, side in sides.items():
        texts = record.get(f"{name}_states", [])
        replies = sum(message.role == "assistant" for message in side)
        wrong = not isinstance(texts, list) or not all(isinstance(text, str) for text in texts)
        if (
            wrong
            or len(texts) not in (0, replies)
            or type(head) is not int
            or not 0 <= head < prompt
        ):
            raise DataError(
                f"record {record.get('id')!r:.80} with history {history!r:.80}: expected the place "
                "of the first observation in the prompt as 'head', and a text for each reply in "
                f"'{name}_states', or none"
            )
        states[f"{name}_states"] = tuple(texts)
    return {"history": history, "head": head, **states}
