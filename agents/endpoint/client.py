"""One connection to one OpenAI-compatible server: requests out, checked replies back."""

from __future__ import annotations

import base64
import dataclasses
import importlib
import json
import logging
import os
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from eto_gym.agents.endpoint.answers import Completion, parse, read_completion
from eto_gym.agents.endpoint.faults import (
    Fault,
    FaultError,
    from_exception,
    from_status,
    shortened,
)
from eto_gym.agents.endpoint.sampling import Sampling
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

NO_KEY = "none"
"""Sent as the API key where there is none."""

NOTHING_SAID = "(no reply)"
"""Stands for an empty message at servers that refuse one; others get it as it is."""


def http_library() -> Any:
    """Return the module of HTTP that the installed `openai` is built on: httpx or httpx2."""
    import openai

    bases = [base.__module__.partition(".")[0] for base in openai.DefaultAsyncHttpxClient.__mro__]
    name = next(name for name in bases if name in ("httpx", "httpx2"))
    return importlib.import_module(name)


def api_key_in(variable: str) -> str:
    """Return the API key that an environment variable holds, or what is sent for none."""
    return os.environ.get(str(variable), "").strip() or NO_KEY


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

        Raises:
            MissingDependencyError: The `openai` package is not installed.
        """
        require("openai", feature="a policy behind an endpoint", extra="openai")
        import openai

        httpx = http_library()
        address = Address(address) if isinstance(address, str) else address
        self.url = url = address.url
        self.dialect: Dialect = dialect
        self._secrets = _secrets(api_key, address)
        host = urlsplit(url).hostname or ""
        self._http = openai.DefaultAsyncHttpxClient(
            auth=None if address.user is None else (address.user, address.password),
            limits=httpx.Limits(max_connections=None, keepalive_expiry=_KEEPALIVE),
            timeout=httpx.Timeout(timeout, connect=min(timeout, _CONNECT_TIMEOUT)),
            # What is compressed could be of any size behind the limit.
            headers={"Accept-Encoding": "identity"},
            event_hooks={"response": [_limit_answer]},
            # A proxy of the environment cannot reach this machine's own loopback interface.
            trust_env=not (host in ("localhost", "::1") or host.startswith("127.")),
        )
        self._client = openai.AsyncOpenAI(
            base_url=url, api_key=api_key, http_client=self._http, max_retries=0
        )
        self._fills = False  # whether empty messages must say something here
        self._faults = (openai.OpenAIError, httpx.HTTPError, TimeoutError, FaultError)

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
            data = parse(raw.http_response.content).get("data")
        except self._faults as err:
            raise self._fault(err) from err
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
            answer = await self._http.get(re.sub(r"/v1$", "", self.url) + "/openapi.json")
            if answer.status_code in (429, 502, 503, 504):
                raise FaultError(from_status(answer.status_code, answer.text, answer.headers))
        except self._faults as err:
            told = self._fault(err)
            if told.fault.kind != "malformed":
                raise told from err
            self.dialect = "openai"
            return
        paths: Any = {}
        if answer.status_code == 200:
            try:
                paths = parse(answer.content).get("paths")
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
        extra = dict(sampling.extra_body)
        if sampling.tokens != "none":
            extra.setdefault("return_token_ids", True)  # the name that vLLM gave it
        if self.dialect == "transformers" and "generation_config" not in extra:
            extra["generation_config"] = _generation_config(sampling)
        fields = {"model": model, **sampling.fields(seed), "extra_body": extra}
        try:
            return await self._ask(messages, fields)
        except FaultError as err:
            # Some servers refuse a message without words, and a model may well have said nothing.
            empty = any(not message.content.strip() for message in messages)
            if err.fault.kind != "refused" or self._fills or not empty:
                raise
            answer = await self._ask(messages, fields, filled=True)
            self._fills = True
            return answer

    async def _ask(
        self, messages: Sequence[Message], fields: dict[str, Any], *, filled: bool = False
    ) -> Completion:
        fill = NOTHING_SAID if filled or self._fills else ""
        sent: Any = [
            {
                "role": m.role,
                "content": (_valid(m.content) if m.content.strip() else fill or m.content),
            }
            for m in messages
        ]
        try:
            raw = await self._client.chat.completions.with_raw_response.create(
                messages=sent, **fields
            )
            return read_completion(raw.http_response.content)
        except self._faults as err:
            raise self._fault(err) from err

    def _fault(self, err: Exception) -> FaultError:
        fault = from_exception(err)
        detail = fault.detail
        for secret, name in self._secrets.items():
            detail = detail.replace(secret, name)
        # Cut only now: a part of a secret would not be found.
        return FaultError(dataclasses.replace(fault, detail=shortened(detail)))


def _secrets(api_key: str, address: Address) -> dict[str, str]:
    """Return what no message may hold -> what stands there instead; a server may echo anything."""
    secrets = {} if api_key == NO_KEY else {api_key: "<API key>"}
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
    """Return a stream that counts the bytes that come, and breaks off."""

    async def chunks(_: Any) -> AsyncIterator[bytes]:
        left = MAX_ANSWER
        async for chunk in stream:
            left -= len(chunk)
            if left < 0:
                raise _too_long()
            yield chunk

    async def aclose(_: Any) -> None:
        await stream.aclose()

    methods = {"__aiter__": chunks, "aclose": aclose}
    return type("Limited", (http_library().AsyncByteStream,), methods)()


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


def _generation_config(sampling: Sampling) -> str:
    """Say to `transformers serve` what OpenAI's fields cannot.

    Without `do_sample` it ignores a temperature above 0. The rest undoes what a model's own
    `generation_config.json`, or a default, would put on top of temperature and top_p.
    """
    sampled = sampling.temperature > 0
    plain: dict[str, Any] = {"do_sample": sampled, "repetition_penalty": 1.0}
    if sampled:
        plain |= {"top_k": 0, "min_p": 0.0, "top_p": sampling.top_p}
    return json.dumps(plain)


def _valid(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot carry."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
