"""A model behind one or more OpenAI-compatible endpoints as a policy."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np

from eto_gym.agents.endpoint.answers import Completion
from eto_gym.agents.endpoint.client import (
    Dialect,
    EndpointClient,
    api_key_in,
    context_of,
)
from eto_gym.agents.endpoint.faults import Fault, FaultError
from eto_gym.agents.endpoint.loop_thread import LoopThread
from eto_gym.agents.endpoint.pool import Server, ServerPool
from eto_gym.agents.endpoint.sampling import Sampling, read_fields
from eto_gym.agents.options import (
    check_finite,
    check_flags,
    check_mapping,
    check_sampling,
    check_whole,
    stop_strings,
)
from eto_gym.agents.policy import Conversation, PolicyReply
from eto_gym.errors import EtoGymError, check_choice
from eto_gym.prompt import Message
from eto_gym.urls import read_addresses

logger = logging.getLogger(__name__)

_REFUSALS = 3
"""Requests refused before there was any reply, after which the set-up is to blame."""

_QUEUED = 2
"""Requests under way at a `transformers serve`: one that it computes and one that waits."""


class EndpointPolicy:
    """Replies with a model that one or more servers serve, many conversations at a time.

    Servers speak OpenAI's chat completions: `transformers serve`, vLLM, SGLang, llama.cpp, hosted
    models. Each request goes to the server with the least under way among those that are well.
    What fails is tried again, elsewhere if possible, up to `attempts` times; a conversation whose
    attempts are used up gets an error for its reply, and the others go on.

    Sampling sends a seed with every request, made of the episode's seed and the length of the
    conversation, so with a server that honours seeds a reply does not depend on scheduling.

    `transformers serve` is treated with care: it computes one reply at a time and keeps one random
    generator for all, so it gets one request at a time while sampling (two otherwise) and the rest
    wait here. It knows no limit of the context, so `context` is enforced here.

    Example:
        >>> from eto_gym.agents.endpoint.policy import EndpointPolicy
        >>> policy = EndpointPolicy("http://127.0.0.1:8000/v1", "my-model", temperature=0.7)
        >>> policy.name
        'my-model'
        >>> policy.close()
    """

    def __init__(
        self,
        base_urls: str | Sequence[str],
        model: str | None = None,
        *,
        name: str | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        max_new_tokens: int = 128,
        stop: str | Sequence[str] = (),
        context: int | None = None,
        concurrency: int = 64,
        per_server: int | None = None,
        timeout: float = 600.0,
        attempts: int = 8,
        first_wait: float = 0.5,
        max_wait: float = 30.0,
        api_key_env: str = "OPENAI_API_KEY",
        dialect: Dialect = "auto",
        limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens",
        send_seed: bool = True,
        leave_out: str | Sequence[str] = (),
        extra_body: Mapping[str, Any] | None = None,
        tokens: Literal["none", "ids", "logprobs"] = "none",
    ) -> None:
        """Create the policy; servers are asked only where `model` must be found out.

        Args:
            base_urls: One or more, as a list or with commas between ("http://host:8000/v1"). A user
                and password in one are sent to it, and neither shown nor recorded.
            model: Name of the model at the servers. None asks them, and expects to find just one;
                `transformers serve` does not tell, so it needs the name.
            name: Recorded with every trajectory; the model's name by default.
            temperature: 0 (the default) is greedy.
            top_p: Sample from the most probable tokens up to this mass; 1 keeps all, and is
                not sent.
            max_new_tokens: Tokens of a reply at most; a longer one ends there.
            stop: Strings that end a reply; they are not part of it.
            context: Tokens of a conversation with its reply at most; more is the error "context".
                None leaves that to the servers, except for a local folder behind `transformers
                serve`, where it is the model's `max_position_embeddings`.
            concurrency: Requests under way at a time, over all servers. 64 keeps a server with
                continuous batching busy and is no burden to others.
            per_server: Requests under way at one server at a time; None is as many as
                `concurrency` allows, and fewer for `transformers serve` (see above).
            timeout: Seconds for one request, its wait in the server's queue included.
            attempts: Requests for one reply at most. With the default waits, 8 outlast a server
                that is gone for a minute.
            first_wait: Seconds before the second attempt at most; doubles from one to the next.
            max_wait: Where the doubling ends. A server may ask for more (`Retry-After`).
            api_key_env: Environment variable that holds the API key. It is read here, and neither
                logged nor recorded; without it a placeholder is sent, which local servers accept.
            dialect: "transformers" for `transformers serve`, "openai" for all others; "auto" asks
                each server.
            limit_field: What the server calls the limit of a reply. OpenAI's reasoning models want
                "max_completion_tokens".
            send_seed: False for servers that refuse the field `seed`.
            leave_out: Fields that the server refuses and that no request shall have, as a list or
                with commas between: of temperature, top_p, max_tokens, max_completion_tokens,
                stop, seed. Without a temperature the server's own holds. Strings that end a reply
                end it here in any case. A `top_p` of 1 says nothing and is never sent.
            extra_body: More fields for every request, such as vLLM's `top_k`.
            tokens: "ids" asks the servers for the token ids that were read and sampled
                (`return_token_ids`, which vLLM knows), "logprobs" also for how likely they were;
                they are recorded with the trajectory. A server that does not tell them is refused.

        Raises:
            EtoGymError: An option has no meaning, or the model's name cannot be found out.
            MissingDependencyError: The `openai` package is not installed.
        """
        name = None if name is None else str(name)
        model = None if model is None else str(model)
        check_sampling(temperature, top_p)
        check_finite(max_new_tokens=max_new_tokens, concurrency=concurrency, attempts=attempts)
        check_whole(1, max_new_tokens=max_new_tokens, concurrency=concurrency, attempts=attempts)
        check_whole(1, context=context, per_server=per_server)
        _check_times(timeout, first_wait, max_wait)
        check_mapping(extra_body=extra_body)
        check_flags(send_seed=send_seed)
        check_choice("dialect", dialect, ("auto", "openai", "transformers"))
        check_choice("tokens", tokens, ("none", "ids", "logprobs"))
        check_choice("limit_field", limit_field, ("max_tokens", "max_completion_tokens"))
        self._sampling = Sampling(
            temperature=temperature,
            top_p=top_p,
            max_new_tokens=max_new_tokens,
            stop=stop_strings(stop),
            limit_field=limit_field,
            send_seed=send_seed,
            leave_out=read_fields(leave_out),
            extra_body=dict(extra_body or {}),
            tokens=tokens,
        )
        self._context = context
        self._per_server = per_server
        self._timeout = timeout
        self._attempts = attempts
        key = api_key_in(api_key_env)
        self._pool = ServerPool(
            [
                Server(
                    address.url,
                    EndpointClient(address, api_key=key, timeout=timeout, dialect=dialect),
                    limit=self._limit(dialect),
                )
                for address in read_addresses(base_urls)
            ],
            first_wait=first_wait,
            max_wait=max_wait,
            jitter=random.Random(),  # of the waits alone: no reply depends on it
        )
        self._gate = asyncio.Semaphore(concurrency)
        self._totals: Counter[str] = Counter()
        self._loop = LoopThread("eto-gym-endpoint")
        try:
            self.model = model or self._loop.run(self._find_model())
        except BaseException:
            self.close()
            raise
        self.name = name or self.model
        self._local_context = context or context_of(self.model)

    # --- the policy's interface ------------------------------------------------------------------

    def act(self, conversations: Sequence[Conversation]) -> list[PolicyReply]:
        """Return one reply per conversation, in order; waits for the slowest.

        Raises:
            EtoGymError: A server rejects the set-up (key, model name, fields of the request).
        """
        return self._loop.run(self._reply_all(conversations))

    def submit(self, conversation: Conversation) -> concurrent.futures.Future[PolicyReply]:
        """Start on one reply and return at once; `concurrency` holds over all that is started.

        The future raises what `act` raises.
        """
        return self._loop.submit(self._reply(conversation))

    def release(self, key: str) -> None:
        """Do nothing: servers keep what they keep."""

    @property
    def usage(self) -> dict[str, int]:
        """Totals so far: the counts of all replies, "replies", "requests", and faults by kind."""
        return dict(self._totals)

    def close(self) -> None:
        """Close the connections and end the thread; replies under way are cancelled."""
        if not self._loop.closed:
            self._loop.run(self._close_clients())
            self._loop.close()

    def __enter__(self) -> Self:
        """Use as a context manager that closes the policy."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the policy."""
        self.close()

    # --- on the loop -----------------------------------------------------------------------------

    async def _reply_all(self, conversations: Sequence[Conversation]) -> list[PolicyReply]:
        tasks = [asyncio.create_task(self._reply(talk)) for talk in conversations]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def _reply(self, conversation: Conversation) -> PolicyReply:
        # The conversation may go on while this waits for its turn: fix what is to be answered.
        messages = tuple(conversation.messages)
        seed = _seed(conversation.seed, conversation.position)
        async with self._gate:
            avoid = None
            for attempt in range(1, self._attempts + 1):
                server = await self._pool.take(avoid=avoid)
                try:
                    completion = await self._ask(server, messages, seed)
                except FaultError as err:
                    fault = err.fault
                else:
                    return self._finish(server, completion, attempt)
                finally:
                    await self._pool.give_back(server)
                self._totals[f"faults: {fault.kind}"] += 1
                self._check_setup(server, fault)
                if not fault.retriable:
                    break
                logger.debug("%s: %s (attempt %d)", server.url, fault.detail, attempt)
                avoid = server
                if not fault.rests_server and attempt < self._attempts:
                    await asyncio.sleep(self._pool.wait_after(attempt))
        logger.warning(
            "no reply to %s after %d attempts: %s at %s: %s",
            conversation.key,
            attempt,
            fault.kind,
            server.url,
            fault.detail,
        )
        return self._count(PolicyReply("", {"requests": attempt}, error=fault.error))

    async def _ask(
        self, server: Server[EndpointClient], messages: Sequence[Message], seed: int
    ) -> Completion:
        async with self._asking(server):
            await self._learn_dialect(server)
            return await server.client.complete(self.model, messages, self._sampling, seed)

    @contextlib.asynccontextmanager
    async def _asking(self, server: Server[EndpointClient]) -> AsyncIterator[None]:
        """Give what is asked its time, and let the server be judged by what comes of it."""
        with self._pool.judge(server):
            try:
                async with asyncio.timeout(self._timeout):
                    yield
            except TimeoutError as err:
                detail = f"no answer within {self._timeout:g} s"
                raise FaultError(Fault("timeout", detail)) from err

    async def _learn_dialect(self, server: Server[EndpointClient]) -> None:
        if server.client.dialect == "auto":
            await server.client.learn_dialect()
            await self._pool.set_limit(server, self._limit(server.client.dialect))

    def _limit(self, dialect: Dialect) -> int | None:
        """Return how many requests may be under way at one server."""
        if self._per_server is not None or dialect == "openai":
            return self._per_server
        # While it is not known what serves there, one request finds out.
        return _QUEUED if dialect == "transformers" and self._sampling.temperature == 0 else 1

    def _finish(
        self, server: Server[EndpointClient], completion: Completion, requests: int
    ) -> PolicyReply:
        local = server.client.dialect == "transformers"
        prompt, decoded = completion.prompt_tokens, completion.completion_tokens
        usage = {"requests": requests}
        if prompt is not None:
            usage["prompt_tokens"] = prompt
            cached = 0 if local else completion.cached_tokens
            if cached is not None:  # else the server does not say
                usage["prefilled_tokens"] = max(0, prompt - cached)
        if decoded is not None:
            usage["decoded_tokens"] = decoded
        context = self._local_context if local else self._context
        if context is not None and prompt is not None:
            full = prompt >= context or prompt + (decoded or 0) > context
        else:  # cut by something else than the limit of the reply
            cut = completion.finish_reason == "length"
            limited = self._sampling.limit_field not in self._sampling.leave_out
            short = decoded is not None and decoded < self._sampling.max_new_tokens
            full = limited and cut and short
        if full:
            return self._count(PolicyReply("", usage, error="context"))
        text, told = completion.text, self._told(server, completion)
        ends = [text.find(stop) for stop in self._sampling.stop if stop in text]
        return self._count(
            PolicyReply(
                text[: min(ends, default=len(text))],
                usage,
                truncated=completion.finish_reason == "length",
                reasoning=completion.reasoning,
                **told,
            )
        )

    def _told(self, server: Server[EndpointClient], completion: Completion) -> dict[str, Any]:
        """Return what a reply tells of its tokens.

        Raises:
            EtoGymError: They were asked for, and the server does not tell them.
        """
        if self._sampling.tokens == "none":
            return {}
        ids, logprobs = completion.token_ids, completion.logprobs
        if not ids or not completion.prompt_ids:
            raise EtoGymError(
                f"{server.url} does not tell the token ids of its replies, for which tokens="
                f"{self._sampling.tokens!r} asks: vLLM 0.10.2 and later does; leave out tokens"
            )
        if self._sampling.tokens == "ids":
            logprobs = []
        elif len(logprobs) != len(ids):
            raise EtoGymError(
                f"expected {server.url} to tell a log-probability for each of {len(ids)} tokens, "
                f"got {len(logprobs)}: ask for tokens='ids' only"
            )
        return {"prompt_ids": completion.prompt_ids, "token_ids": ids, "logprobs": logprobs}

    def _count(self, reply: PolicyReply) -> PolicyReply:
        self._totals.update(reply.usage)
        self._totals["replies" if reply.error is None else f"errors: {reply.error}"] += 1
        return reply

    def _check_setup(self, server: Server[EndpointClient], fault: Fault) -> None:
        refused = fault.kind == "refused" and self._totals["faults: refused"] >= _REFUSALS
        if not self._totals["replies"] and self._pool.nobody_there(self._attempts):
            raise EtoGymError(f"{server.url} does not answer: {fault.detail}")
        if fault.kind == "setup" or (refused and not self._totals["replies"]):
            raise EtoGymError(
                f"{server.url} does not serve {self.model!r}: {fault.detail}"
                f"{self._sampling.remedy(fault.detail)}"
            )

    async def _find_model(self) -> str:
        """Return the one model that is served.

        Raises:
            EtoGymError: No server answers, or does not name exactly one model.
        """
        server = self._pool.servers[0]
        for attempt in range(1, self._attempts + 1):
            server = await self._pool.take(avoid=server if attempt > 1 else None)
            try:
                async with self._asking(server):
                    await self._learn_dialect(server)
                    if server.client.dialect == "transformers":
                        raise EtoGymError(
                            f"{server.url} is a `transformers serve`, which does not tell what it "
                            "serves: pass the name or folder that it was started with as model"
                        )
                    names = await server.client.models()
            except FaultError as err:
                fault = err.fault
            else:
                if len(names) == 1:
                    return names[0]
                known = ", ".join(map(repr, names[:8])) or "none"
                raise EtoGymError(f"{server.url} serves {known}, not one model: pass model")
            finally:
                await self._pool.give_back(server)
            if not fault.retriable:
                break
            await asyncio.sleep(self._pool.wait_after(attempt))
        told = f"answer: {fault.detail}" if fault.absent else f"list its models: {fault.detail}"
        raise EtoGymError(f"{server.url} does not {told}{'' if fault.absent else ': pass model'}")

    async def _close_clients(self) -> None:
        for server in self._pool.servers:
            await server.client.close()


def _seed(episode: int, messages: int) -> int:
    """Return the seed of one reply: 31 bits, which every server takes."""
    return int(np.random.SeedSequence([episode, messages]).generate_state(1)[0]) >> 1


def _check_times(timeout: float, first_wait: float, max_wait: float) -> None:
    check_finite(timeout=timeout, first_wait=first_wait, max_wait=max_wait)
    if not (timeout > 0 and 0 < first_wait <= max_wait):
        raise EtoGymError(
            "expected timeout > 0 and 0 < first_wait <= max_wait, "
            f"got {timeout}, {first_wait} and {max_wait}"
        )
