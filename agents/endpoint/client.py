"""One connection to one OpenAI-compatible server: requests out, checked replies back."""

from __future__ import annotations

import base64
import json
import logging
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from eto_gym.agents.endpoint.faults import Fault, FaultError, from_exception, from_status
from eto_gym.agents.models.sizes import longest_of
from eto_gym.errors import EtoGymError, require
from eto_gym.prompt import Message
from eto_gym.urls import Address

logger = logging.getLogger(__name__)

Dialect = Literal["auto", "openai", "transformers"]

# uvicorn closes a connection that has been idle for 5 s. One that is closed here before that
# cannot be closed under a request that is being sent.
_KEEPALIVE = 3.0
_CONNECT_TIMEOUT = 10.0

MAX_ANSWER = 8 << 20
"""Bytes of an answer that are read at most; the longest replies of a model take a hundredth."""


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


@dataclass(frozen=True, slots=True)
class Sampling:
    """How replies are sampled; `EndpointPolicy` explains the values."""

    temperature: float
    top_p: float
    max_new_tokens: int
    stop: tuple[str, ...]
    limit_field: Literal["max_tokens", "max_completion_tokens"]
    send_seed: bool
    extra_body: Mapping[str, Any]
    tokens: Literal["none", "ids", "logprobs"] = "none"


class EndpointClient:
    """Talks to one server through the official client; one request per call, no retries here."""

    def __init__(
        self, address: Address | str, *, api_key: str, timeout: float, dialect: Dialect
    ) -> None:
        """Create the client; nothing is sent yet.

        Args:
            address: Base URL, as `read_addresses` returns it.
            api_key: Sent with every request, unless the address names a user.
            timeout: Seconds for a whole request.
            dialect: See `EndpointPolicy`.
        """
        require("openai", feature="a policy behind an endpoint", extra="openai")
        import httpx2
        import openai

        address = Address(address) if isinstance(address, str) else address
        self.url = url = address.url
        self.dialect: Dialect = dialect
        self._secrets = _secrets(api_key, address)
        host = urlsplit(url).hostname or ""
        self._http = openai.DefaultAsyncHttpxClient(
            auth=None if address.user is None else (address.user, address.password),
            limits=httpx2.Limits(max_connections=None, keepalive_expiry=_KEEPALIVE),
            timeout=httpx2.Timeout(timeout, connect=min(timeout, _CONNECT_TIMEOUT)),
            # What is compressed could be of any size behind the limit.
            headers={"Accept-Encoding": "identity"},
            event_hooks={"response": [_limit_answer]},
            # A proxy of the environment cannot reach this machine's own loopback interface.
            trust_env=not (host in ("localhost", "::1") or host.startswith("127.")),
        )
        self._client = openai.AsyncOpenAI(
            base_url=url, api_key=api_key, http_client=self._http, max_retries=0
        )
        self._faults = (openai.OpenAIError, httpx2.HTTPError, TimeoutError, FaultError)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def models(self) -> list[str]:
        """Return the names of the models that the server lists.

        Raises:
            FaultError: There is no such list.
        """
        try:
            raw = await self._client.models.with_raw_response.list()
        except self._faults as err:
            raise self._fault(err) from err
        data = _parse(raw.http_response.content).get("data")
        names = [item.get("id") for item in data or () if isinstance(item, dict)]
        return [name for name in names if isinstance(name, str)]

    async def learn_dialect(self) -> None:
        """Find out what serves here.

        `transformers serve` describes itself as every FastAPI application does, and is known by an
        address of its own. Whatever describes itself otherwise, or not at all, is taken for a
        server that follows OpenAI's interface.

        Raises:
            FaultError: Nothing answers.
        """
        try:
            answer = await self._http.get(self.url.rpartition("/v1")[0] + "/openapi.json")
        except self._faults as err:
            raise self._fault(err) from err
        if answer.status_code in (429, 502, 503, 504):
            raise FaultError(from_status(answer.status_code, answer.text, answer.headers))
        paths: Any = {}
        if answer.status_code == 200:
            try:
                paths = _parse(answer.content).get("paths")
            except FaultError:  # a page for people, for instance
                logger.debug("%s does not describe itself", self.url)
        known = isinstance(paths, dict) and {"/load_model", "/v1/chat/completions"} <= paths.keys()
        self.dialect = "transformers" if known else "openai"

    async def complete(
        self, model: str, messages: Sequence[Message], sampling: Sampling, seed: int
    ) -> Completion:
        """Ask for one reply.

        Raises:
            FaultError: The server gave none.
        """
        request: dict[str, Any] = {
            "model": model,
            "messages": [{"role": m.role, "content": _valid(m.content)} for m in messages],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            sampling.limit_field: sampling.max_new_tokens,
        }
        sampled = sampling.temperature > 0
        if sampling.stop:
            request["stop"] = list(sampling.stop)
        if sampled and sampling.send_seed:
            request["seed"] = seed
        extra = dict(sampling.extra_body)
        if sampling.tokens != "none":
            extra.setdefault("return_token_ids", True)  # the name that vLLM gave it
        if sampling.tokens == "logprobs":
            request["logprobs"] = True
        if self.dialect == "transformers" and "generation_config" not in extra:
            extra["generation_config"] = _generation_config(sampled=sampled)
        try:
            raw = await self._client.chat.completions.with_raw_response.create(
                **request, extra_body=extra
            )
        except self._faults as err:
            raise self._fault(err) from err
        return _completion(raw.http_response.content)

    def _fault(self, err: Exception) -> FaultError:
        fault = from_exception(err)
        detail = fault.detail
        for secret, name in self._secrets.items():
            detail = detail.replace(secret, name)
        return FaultError(Fault(fault.kind, detail, fault.retry_after))


def _secrets(api_key: str, address: Address) -> dict[str, str]:
    """Return what no message may hold -> what stands there instead; a server may echo anything."""
    secrets = {api_key: "<API key>"}
    if address.user is not None:
        pair = f"{address.user}:{address.password}"
        secrets[pair] = "<user and password>"
        secrets[base64.b64encode(pair.encode()).decode()] = "<user and password>"
        for password in (address.password, quote(address.password, safe="")):
            secrets[password] = "<password>"
    return {secret: name for secret, name in secrets.items() if secret}


async def _limit_answer(response: Any) -> None:
    """Let the body of a response be read up to `MAX_ANSWER` only.

    Raises:
        FaultError: It says itself that it is longer, or is packed although nobody asked for that.
    """
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and int(length[:20]) > MAX_ANSWER:
        raise _too_long()
    if response.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise FaultError(Fault("malformed", "the answer is compressed, which was not asked for"))
    response.stream = _limited_stream(response.stream)


def _limited_stream(stream: Any) -> Any:
    import httpx2

    class Limited(httpx2.AsyncByteStream):
        """Counts the bytes that come, and breaks off."""

        async def __aiter__(self) -> AsyncIterator[bytes]:
            left = MAX_ANSWER
            async for chunk in stream:
                left -= len(chunk)
                if left < 0:
                    raise _too_long()
                yield chunk

        async def aclose(self) -> None:
            await stream.aclose()

    return Limited()


def _too_long() -> FaultError:
    return FaultError(Fault("malformed", f"the answer is longer than {MAX_ANSWER >> 20} MB"))


def context_of(model: str) -> int | None:
    """Return the context of a model in a local folder, None for anything else.

    Raises:
        EtoGymError: The folder's `config.json` cannot be read.
    """
    path = Path(model) / "config.json"
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_bytes())
        config = config.get("text_config") or config
        return longest_of(config)
    except (OSError, ValueError, RecursionError, AttributeError) as err:
        raise EtoGymError(f"cannot read {path}: {err}") from err


def _generation_config(*, sampled: bool) -> str:
    """Say to `transformers serve` what OpenAI's fields cannot.

    Without `do_sample` it ignores a temperature above 0. The rest undoes what a model's own
    `generation_config.json`, or a default, would put on top of temperature and top_p.
    """
    plain: dict[str, Any] = {"do_sample": sampled, "repetition_penalty": 1.0}
    if sampled:
        plain |= {"top_k": 0, "min_p": 0.0}
    return json.dumps(plain)


def _completion(body: bytes) -> Completion:
    """Check an answer's shape; servers and what stands before them send all sorts of things."""
    answer = _parse(body)
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise _malformed("no choices", body)
    message = choices[0].get("message")
    if not isinstance(message, dict):
        raise _malformed("no message", body)
    # No content is what a server sends for a reply of reasoning or tool calls alone.
    text = message.get("content") or message.get("refusal") or ""
    if not isinstance(text, str):
        raise _malformed("no text", body)
    usage = answer.get("usage")
    details = usage.get("prompt_tokens_details") if isinstance(usage, dict) else None
    return Completion(
        text,
        _reasoning(message),
        str(choices[0].get("finish_reason")),
        _count(usage, "prompt_tokens"),
        _count(details, "cached_tokens"),
        _count(usage, "completion_tokens"),
        # vLLM has the prompt's at the top, and the reply's beside its text.
        _ids(answer.get("prompt_token_ids") or choices[0].get("prompt_token_ids")),
        _ids(choices[0].get("token_ids")),
        _logprobs(choices[0].get("logprobs")),
    )


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


def _parse(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as err:
        raise _malformed(f"no JSON ({err})", body) from err
    if not isinstance(value, dict):
        raise _malformed("no JSON object", body)
    return value


def _malformed(what: str, body: bytes) -> FaultError:
    return FaultError(Fault("malformed", f"{what}: {body[:120]!r}"))


def _count(counts: Any, name: str) -> int | None:
    value = counts.get(name) if isinstance(counts, dict) else None
    return value if type(value) is int and value >= 0 else None


def _valid(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot carry."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
