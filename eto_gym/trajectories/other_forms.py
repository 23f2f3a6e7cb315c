"""Records without a list of turns, as conversations: ADP's steps, and alpaca's questions."""

from __future__ import annotations

from typing import Any

from eto_gym.errors import DataError
from eto_gym.trajectories.numbers import is_number
from eto_gym.trajectories.turns import Notes, without_nulls

_ADP_KEYS = {"class_", "content", "source", "name", "reward", "description", "reasoning_content"}
_THOUGHTS = ("reasoning_content", "description")
_ASKED = ("instruction", "input", "history")


def is_adp(fields: dict[str, Any]) -> bool:
    """Whether a record has the form of the Agent Data Protocol."""
    content = fields.get("content")
    return isinstance(content, list) and any(
        isinstance(item, dict) and "class_" in item for item in content
    )


def from_adp(fields: dict[str, Any], notes: Notes) -> dict[str, Any]:
    """Return a record of the Agent Data Protocol with `messages` in place of its `content`.

    Messages of the agent are replies, what stands beside them as reasoning is kept as such, and
    texts of the user or the environment are observations. Rewards of single steps are added up.

    Source: https://github.com/neulab/agent-data-protocol (schema/, version 1).

    Raises:
        DataError: A step is a call, code, a web page or a picture: those are no text.
    """
    turns: list[dict[str, Any]] = []
    rewards: list[float] = []
    for number, item in enumerate(fields["content"], start=1):
        if not isinstance(item, dict):
            raise DataError(f"item {number} of 'content': expected an object, got {item!r:.60}")
        step = without_nulls(item)
        turns.append(_adp_turn(step, number))
        for key in step.keys() - _ADP_KEYS:
            notes[f"the key {key!r:.60} of steps, which is not read"] += 1
        reward = step.get("reward", 0.0)
        if not is_number(reward):
            raise DataError(f"item {number} of 'content': expected a number as 'reward'")
        if "reward" in step:
            rewards.append(float(reward))
    read = {key: v for key, v in fields.items() if key not in ("content", "schema_version")}
    if rewards and "reward" not in read:
        read["reward"] = sum(rewards)
    return {**read, "messages": turns}


def _adp_turn(step: dict[str, Any], number: int) -> dict[str, Any]:
    kind, source = step.get("class_"), step.get("source")
    if kind == "text_observation":
        if source not in ("user", "environment"):
            raise DataError(
                f"item {number} of 'content': expected a text of source 'user' or 'environment', "
                f"got {source!r:.60}"
            )
        return {"role": source, "content": step.get("content")}
    if kind != "message_action":
        raise DataError(
            f"item {number} of 'content' is {kind!r:.60}: only texts ('text_observation', "
            "'message_action') can be learned from"
        )
    thoughts = [step[key] for key in _THOUGHTS if step.get(key)]
    if not all(isinstance(thought, str) for thought in thoughts):
        raise DataError(f"item {number} of 'content': expected a text as reasoning")
    beside = {"reasoning": "\n".join(thoughts)} if thoughts else {}
    return {"role": "assistant", "content": step.get("content"), **beside}


def is_alpaca(fields: dict[str, Any]) -> bool:
    """Whether a record asks as alpaca's do, and as LLaMA-Factory and axolotl read them."""
    return "instruction" in fields


def from_alpaca(fields: dict[str, Any], *, pair: bool = False) -> dict[str, Any]:
    """Return a record of alpaca's form with turns.

    The user's last turn is `instruction` and, on the next line, `input`; before it stand the pairs
    of question and answer in `history`.

    Args:
        fields: The record.
        pair: It has `chosen` and `rejected` in place of `output`: the turns become the `prompt`.

    Raises:
        DataError: A part has another form.
    """
    asked = [fields["instruction"], *([fields["input"]] if fields.get("input") else [])]
    if not all(isinstance(text, str) for text in asked):
        raise DataError("expected texts as 'instruction' and 'input'")
    turns: list[dict[str, Any]] = []
    history = fields.get("history", [])
    if not isinstance(history, list):
        raise DataError(f"expected a list of questions and answers as 'history': {history!r:.60}")
    for said in history:
        if not isinstance(said, list | tuple) or len(said) != 2:
            raise DataError(f"expected a question and an answer in 'history', got {said!r:.60}")
        turns += [{"role": "user", "content": said[0]}, {"role": "assistant", "content": said[1]}]
    turns.append({"role": "user", "content": "\n".join(asked)})
    read = {key: value for key, value in fields.items() if key not in _ASKED}
    if pair:
        return {**read, "prompt": turns}
    if "output" not in read:
        raise DataError("expected 'output' beside 'instruction'")
    turns.append({"role": "assistant", "content": read.pop("output")})
    return {**read, "messages": turns}
