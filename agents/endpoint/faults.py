"""Classifies the errors of model servers: retry, give up, or end the run."""

from __future__ import annotations

import email.utils
import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from eto_gym.trajectories.record import ErrorKind

FaultKind = Literal[
    "rate limit",  # 429: the server wants to be asked later
    "unavailable",  # no connection, a connection that broke, 502 or 503
    "timeout",  # no whole answer in time, 408 or 504
    "server",  # 500 and the rest of the 5xx: the server failed at this request
    "malformed",  # 200 with something else than a reply
    "broken off",  # 200 with a reply that the server gave up: finish_reason "abort" or "error"
    "context",  # the conversation does not fit into the model's context
    "refused",  # a 4xx that is about this request
    "setup",  # a 4xx that every request would meet: key, model name, address
]

_RESTING: frozenset[FaultKind] = frozenset({"rate limit", "unavailable", "timeout"})
_FINAL: frozenset[FaultKind] = frozenset({"context", "refused", "setup"})

# How servers word it, kind by kind. Each alternative is linear: what is repeated is bounded.
_CONTEXT = re.compile(
    # The context has a size: OpenAI, vLLM, SGLang, Mistral, Groq, llama.cpp, Ollama, OpenRouter.
    r"maximum context length|context_length_exceeded|model's context length"
    r"|exceed_context_size|available context size|context size has been exceeded"
    r"|exceeds? (?:the )?(?:model's )?context (?:window|length|size|limit)"
    r"|context (?:window exceeds|overflow)|fit into the model \(context length"
    r"|greater than the context length"
    # So has a prompt: Anthropic, Bedrock, xAI, Zhipu, vLLM, TGI, DashScope.
    r"|(?:prompt|input) is too long|maximum prompt length|prompt exceeds max length"
    r"|longer than the maximum model length|larger than the model input length"
    r"|range of input length should be|exceeds (?:the )?maximum (?:allowed|input) length"
    r"|(?:greater than|should not exceed|exceeds) `?(?:max_(?:num_tokens|seq_len|input_len))"
    r"|exceeds `?session_len"
    # Or tokens have a number: TGI, Gemini, Cohere, Moonshot, OpenAI's newer models, Copilot.
    r"|inputs?`? tokens \+ `?max_new_tokens`? must be|inputs`? must have less than \d{1,9} tokens"
    r"|input token count.{0,40}(?:exceeds the maximum|only supports up to)"
    r"|token count of \d{1,9} exceeds the limit|tokens exceed the configured limit"
    r"|exceeded model token limit|too many (?:input )?tokens"
    r"|reduce the length of the (?:messages|prompt|input)",
    re.IGNORECASE,
)
_READ = 1 << 16
"""Characters of an error that are looked at."""
_CONTEXT_STATUS = frozenset({400, 413, 422, 500})  # some servers answer a full context with a 500


@dataclass(frozen=True, slots=True)
class Fault:
    """One request that brought no reply.

    Attributes:
        kind: What went wrong.
        detail: In words, for the log; as long as what the server said, see `shortened`.
        retry_after: Seconds that the server asked to be left alone, if it did.
        absent: Whether no connection came about, so that perhaps no server is there at all.
    """

    kind: FaultKind
    detail: str
    retry_after: float | None = None
    absent: bool = False

    @property
    def retriable(self) -> bool:
        """Whether the same request may succeed later, or elsewhere."""
        return self.kind not in _FINAL

    @property
    def rests_server(self) -> bool:
        """Whether the fault is the server's as a whole, so that others should not ask it now."""
        return self.kind in _RESTING

    @property
    def error(self) -> ErrorKind:
        """How the episode is recorded when the attempts are used up."""
        if self.kind == "context" or self.kind == "timeout":
            return self.kind
        return "policy"


class FaultError(Exception):
    """Carries a fault from where it is seen to where it is counted."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.detail)
        self.fault = fault


def from_status(status: int, body: str, headers: Mapping[str, str]) -> Fault:
    """Tell the fault from an HTTP answer that is no success."""
    body = body[:_READ]
    detail = f"HTTP {status}: {_one_line(body)}"
    if status in _CONTEXT_STATUS and _CONTEXT.search(body):
        return Fault("context", detail)
    if status == 429:
        if "insufficient_quota" in body:  # OpenAI's word for an account without credit
            return Fault("setup", detail)
        return Fault("rate limit", detail, retry_after(headers))
    if status in (408, 504):
        return Fault("timeout", detail, retry_after(headers))
    if status in (502, 503):
        return Fault("unavailable", detail, retry_after(headers))
    if status >= 500 or status in (409, 425):
        return Fault("server", detail)
    if status in (401, 403, 404, 405):
        return Fault("setup", detail)
    return Fault("refused", detail)


def from_error_body(error: Any) -> Fault:
    """Tell the fault from an `error` that came with the status 200, as some gateways send it."""
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, str) and code.isdecimal():
        code = int(code[:4])
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    return from_status(status, json.dumps(error)[:_READ], {})


def from_exception(err: Exception) -> Fault:
    """Tell the fault from what the `openai` client raised."""
    import openai

    inner: BaseException | None = err
    while inner is not None:  # the client wraps what a connection raises
        if isinstance(inner, FaultError):
            return inner.fault
        inner = inner.__cause__
    if isinstance(err, openai.APIStatusError):
        return from_status(err.status_code, err.response.text, err.response.headers)
    if isinstance(err, TimeoutError | openai.APITimeoutError):
        return Fault("timeout", "no answer in time")
    cause: Any = err.__cause__ or err
    name = type(cause).__name__  # the client's transport is no dependency to import it from
    return Fault("unavailable", _one_line(f"{name}: {cause}"), absent=name == "ConnectError")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Read the seconds to wait from `retry-after-ms` or `Retry-After` (seconds, or a date)."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * unit
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
            except (ValueError, OverflowError):
                continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return None


def _one_line(text: str) -> str:
    return " ".join(text.split())


def shortened(detail: str) -> str:
    """Return a detail at the length of a line in a log."""
    return detail if len(detail) <= 300 else detail[:297] + "..."
