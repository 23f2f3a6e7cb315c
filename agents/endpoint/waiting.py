"""Waits until servers that others run answer, and refuses those that serve another model."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from eto_gym.agents.endpoint.client import EndpointClient, api_key_in
from eto_gym.agents.endpoint.faults import FaultError
from eto_gym.agents.endpoint.loop_thread import LoopThread
from eto_gym.errors import EtoGymError
from eto_gym.urls import Address, read_addresses

logger = logging.getLogger(__name__)

_POLL = 0.5
"""Seconds between two questions."""


def await_model(
    base_urls: str | Sequence[str],
    model: str,
    *,
    timeout: float,
    remedy: str = "",
    api_key_env: str = "OPENAI_API_KEY",
) -> bool:
    """Wait until all servers answer and, where they list their models, list this one.

    A server that lists none is believed: whether it serves the model shows at the first request.

    Args:
        base_urls: The servers.
        model: Name of the model at the servers.
        timeout: Seconds until all must answer.
        remedy: What to do where a server serves something else; ends the message.
        api_key_env: Environment variable that holds the API key.

    Returns:
        Whether any of them lists its models, and so serves nothing else.

    Raises:
        EtoGymError: One does not answer in time, or lists other models.
    """
    key = api_key_in(api_key_env)
    loop = LoopThread("eto-gym-waiting")
    try:
        return loop.run(_await_all(read_addresses(base_urls), model, timeout, remedy, key))
    finally:
        loop.close()


async def _await_all(
    addresses: Sequence[Address], model: str, timeout: float, remedy: str, key: str
) -> bool:
    lists = False
    deadline = asyncio.get_running_loop().time() + timeout
    for address in addresses:
        wait = max(1.0, min(timeout, 30.0))
        client = EndpointClient(address, api_key=key, timeout=wait, dialect="auto")
        try:
            lists |= await _await(client, model, timeout, deadline, remedy)
        finally:
            await client.close()
    return lists


async def _await(
    client: EndpointClient, model: str, timeout: float, deadline: float, remedy: str
) -> bool:
    """Return whether the server lists its models."""
    while True:
        try:
            await client.learn_dialect()
            if client.dialect == "transformers":
                return False  # it lists nothing, and loads what it is asked for
            names = await client.models()
        except FaultError as err:
            if not err.fault.retriable:
                logger.debug("%s does not list its models: %s", client.url, err.fault.detail)
                return False
            if asyncio.get_running_loop().time() > deadline:
                raise EtoGymError(
                    f"no answer from {client.url} within {timeout:g} s: {err.fault.detail}"
                ) from err
            await asyncio.sleep(_POLL)
            continue
        if model not in names:
            shown = ", ".join(map(repr, names[:8])) or "nothing"
            raise EtoGymError(f"{client.url} serves {shown}, and not {model!r}{remedy}")
        return True
