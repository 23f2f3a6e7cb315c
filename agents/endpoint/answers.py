"""Reads what a server answers: a reply, or the fault that it is none."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from eto_gym.agents.endpoint.faults import Fault, FaultError, from_error_body

_BROKEN_OFF = frozenset({"abort", "aborted", "error", "insufficient_system_resource"})
"""Reasons to end that are the server's: vLLM and SGLang, OpenRouter, DeepSeek."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What a server said, and the tokens that it counted (None where it counted none).

    `reasoning` is what its reasoning parser took out of the text. The ids of what it read and
    sampled, and how likely that was, are there where they were asked for and the server tells them.
    """

    text: str
    reasoning: str
    finish_reason: str
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    prompt_ids: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


def read_completion(body: bytes) -> Completion:
    """Check an answer's shape; servers and what stands before them send all sorts of things.

    Raises:
        FaultError: It is no reply, or one that the server broke off.
    """
    answer = parse(body)
    choices = answer.get("choices")
    if not choices and answer.get("error"):
        raise FaultError(from_error_body(answer["error"]))
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise _malformed("no choices", body)
    choice = choices[0]
    reason = str(choice.get("finish_reason"))
    if reason in _BROKEN_OFF:
        told = json.dumps(choice.get("error") or answer.get("error") or reason)
        raise FaultError(Fault("broken off", f"the server broke the reply off: {told}"))
    message = choice.get("message")
    if not isinstance(message, dict):
        raise _malformed("no message", body)
    # No content is what a server sends for a reply of reasoning or tool calls alone.
    content = message.get("content") or message.get("refusal") or ""
    parts = _parts(content) if isinstance(content, list) else (content, "")
    if parts is None or not isinstance(parts[0], str):
        raise _malformed("no text", body)
    text, thought = parts
    usage = answer.get("usage")
    details = usage.get("prompt_tokens_details") if isinstance(usage, dict) else None
    return Completion(
        text,
        _reasoning(message) or thought,
        reason,
        _count(usage, "prompt_tokens"),
        _count(details, "cached_tokens"),
        _count(usage, "completion_tokens"),
        # vLLM has the prompt's at the top, and the reply's beside its text.
        _ids(answer.get("prompt_token_ids") or choice.get("prompt_token_ids")),
        _ids(choice.get("token_ids")),
        _logprobs(choice.get("logprobs")),
    )


def _parts(content: list[Any]) -> tuple[str, str] | None:
    """Read content that is a list of parts, as Mistral, Anthropic and OpenAI word them.

    Returns:
        What the parts say, joined, and what they think; None where one is no part.
    """
    said: list[str] = []
    thought: list[str] = []
    for part in content:
        if isinstance(part, str):
            said.append(part)
            continue
        if not isinstance(part, dict):
            return None
        if isinstance(text := part.get("text", part.get("refusal")), str):
            (thought if part.get("thought") is True else said).append(text)
        thinking = part.get("thinking", part.get("reasoning"))
        if isinstance(thinking, list):
            thinking = "".join(_parts(thinking) or ())
        if isinstance(thinking, str):
            thought.append(thinking)
    return "".join(said), "".join(thought)


def _ids(value: Any) -> list[int]:
    """Return token ids if that is what a server sent."""
    known = isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
    return value if known else []


def _logprobs(value: Any) -> list[float]:
    """Return the log-probability of every sampled token if that is what a server sent."""
    content = value.get("content") if isinstance(value, dict) else None
    if not isinstance(content, list):
        return []
    found: list[Any] = [item.get("logprob") if isinstance(item, dict) else None for item in content]
    known = all(type(p) in (int, float) and math.isfinite(p) for p in found)
    return [float(p) for p in found] if known else []


def _reasoning(message: dict[str, Any]) -> str:
    """Return the reasoning of a message: SGLang and older vLLM name it `reasoning_content`."""
    fields = (message.get("reasoning"), message.get("reasoning_content"))
    return next((text for text in fields if isinstance(text, str) and text), "")


def parse(body: bytes) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FaultError: It is none.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as err:
        raise _malformed(f"no JSON ({err})", body) from err
    if not isinstance(value, dict):
        raise _malformed("no JSON object", body)
    return value


def _malformed(what: str, body: bytes) -> FaultError:
    return FaultError(Fault("malformed", f"{what}: {body[:4096]!r}"))


def _count(counts: Any, name: str) -> int | None:
    value = counts.get(name) if isinstance(counts, dict) else None
    return value if type(value) is int and value >= 0 else None
