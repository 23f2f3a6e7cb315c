"""Servers that stay while the adapters on their base come and go."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Hashable

from eto_gym.agents.serving.running_adapters import swap_adapter
from eto_gym.agents.serving.servers import ModelServers

logger = logging.getLogger(__name__)


class KeptServers:
    """The servers that run, none at first, and what they serve.

    Nothing of them outlives this process, however it ends; see `ModelServers`.
    """

    def __init__(self, timeout: float) -> None:
        """Prepare; nothing is started.

        Args:
            timeout: Seconds that a server may take to load an adapter.
        """
        self._timeout = timeout
        self._stack = contextlib.ExitStack()
        self._key: Hashable = None
        self._servers: ModelServers | None = None
        self._adapter = ("", "")  # its name and folder

    def serving(self, key: Hashable, make: Callable[[], ModelServers]) -> ModelServers:
        """Return servers of a base, ready: those that run, if it is theirs.

        Args:
            key: What decides what is served, adapters excepted.
            make: Returns servers of it that were not started yet.

        Raises:
            EtoGymError: They do not come up, or are gone for good.
        """
        if self._servers is not None and self._key == key:
            self._servers.await_all()
            return self._servers
        self.close()
        self._servers = self._stack.enter_context(make())
        self._key = key
        return self._servers

    def take(self, name: str, folder: str) -> None:
        """Have all servers serve an adapter by a name, and drop the one before.

        Raises:
            EtoGymError: One refuses.
        """
        assert self._servers is not None, "there are servers"
        old = "" if self._adapter == (name, folder) else self._adapter[0]
        for url in self._servers.base_urls:
            swap_adapter(url, name, folder, old=old, timeout=self._timeout)
        self._adapter = (name, folder)
        logger.info("%s is loaded into the servers that run", name)

    def close(self) -> None:
        """Stop the servers, if there are any."""
        self._stack.close()
        self._servers, self._key, self._adapter = None, None, ("", "")
