"""Adapters that a running server takes and drops, as vLLM does where it is allowed to."""

from __future__ import annotations

import json
from typing import Any

from eto_gym.agents.serving.asking import ask
from eto_gym.errors import EtoGymError

ALLOW = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
"""Variables with which vLLM offers this, beside its option `--enable-lora`."""

_REMEDY = (
    "Adapters are loaded into servers that run, as vLLM does when it is started with --enable-lora "
    "and a --max-lora-rank that they need; without keep_servers they are served from the start"
)


def swap_adapter(base_url: str, name: str, folder: str, *, old: str = "", timeout: float) -> None:
    """Have a server serve an adapter by a name, unless it does, in place of another one.

    Args:
        base_url: The server's base URL, which ends in `/v1`.
        name: What the adapter is to be asked for by.
        folder: Where it lies, as the server sees it.
        old: Name of the one that is not needed any more, which may be the same; "" for none.
        timeout: Seconds for each request.

    Raises:
        EtoGymError: The server takes no adapters while it runs, or not this one.
    """
    listed = _models(base_url, timeout)
    if old in listed:
        _ask(f"{base_url}/unload_lora_adapter", {"lora_name": old}, timeout)
        listed.remove(old)
    if name not in listed:
        told = {"lora_name": name, "lora_path": folder}
        _ask(f"{base_url}/load_lora_adapter", told, timeout)


def _models(base_url: str, timeout: float) -> list[str]:
    """Return the names that a server lists."""
    url = f"{base_url}/models"
    try:
        return [str(item["id"]) for item in json.loads(_ask(url, None, timeout))["data"]]
    except (ValueError, KeyError, TypeError, RecursionError) as err:
        raise EtoGymError(f"{url} does not list models: {err}") from err


def _ask(url: str, body: dict[str, Any] | None, timeout: float) -> bytes:
    return ask(url, body, timeout, remedy=_REMEDY)
