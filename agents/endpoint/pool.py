"""Balances requests over the servers of one model, and rests those that fail."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

from eto_gym.agents.endpoint.faults import Fault, FaultError
from eto_gym.urls import read_addresses

logger = logging.getLogger(__name__)

_C = TypeVar("_C")

_TELL_EVERY = 4.0
"""Seconds between two lines about one server that cannot be used."""

_LONGEST_RETRY_AFTER = 300.0
"""Seconds; a server that asks for more is asked again after this."""


def normalize_urls(base_urls: str | Sequence[str]) -> list[str]:
    """Return base URLs in full, without users: with a scheme, and `/v1` where no path is given.

    Example:
        >>> normalize_urls("localhost:8000, http://10.0.0.2:8000/v1/")
        ['http://localhost:8000/v1', 'http://10.0.0.2:8000/v1']

    Raises:
        EtoGymError: There is no URL, one twice, or one that is not HTTP.
    """
    return [address.url for address in read_addresses(base_urls)]


class Server(Generic[_C]):
    """One server as the pool sees it.

    Attributes:
        url: Its base URL.
        client: What talks to it.
        limit: Requests to have under way at a time; None sets no limit.
        in_flight: Requests under way.
        strikes: Faults of the server in a row, those of one moment counted once.
        absences: How many of the last strikes in a row were connections that did not come about.
        resting_until: Time of the loop before which it is not asked.
        told_at: Time of the loop when the user was last told that it rests.
    """

    __slots__ = (
        "absences",
        "client",
        "in_flight",
        "limit",
        "rested_at",
        "resting_until",
        "strikes",
        "told_at",
        "url",
    )

    def __init__(self, url: str, client: _C, *, limit: int | None = None) -> None:
        """Begin with a server that is thought well."""
        self.url = url
        self.client = client
        self.limit = limit
        self.in_flight = 0
        self.strikes = 0
        self.absences = 0
        self.resting_until = 0.0
        self.rested_at = 0.0
        self.told_at = -math.inf


class ServerPool(Generic[_C]):
    """Gives every request the server with the least under way among those that are well.

    A server that cannot be reached, times out or says that it is busy rests: for the time that it
    asked for, else for a time that doubles with every further fault. After the rest one request
    tries it, and a success brings it back. Where no other server is well, all requests wait.

    Used from one event loop only.
    """

    def __init__(
        self,
        servers: Sequence[Server[_C]],
        *,
        first_wait: float,
        max_wait: float,
        jitter: random.Random,
    ) -> None:
        """Create the pool.

        Args:
            servers: The servers, at least one.
            first_wait: Seconds of a server's first rest.
            max_wait: Seconds of a rest at most, where the server did not ask for more.
            jitter: Spreads the ends of rests.
        """
        self.servers = list(servers)
        self._first_wait = first_wait
        self._max_wait = max_wait
        self._jitter = jitter
        self._freed = asyncio.Condition()

    async def take(self, *, avoid: Server[_C] | None = None) -> Server[_C]:
        """Wait for a server that may be asked, and count one more request under way there.

        Args:
            avoid: Taken only where no other is free: it has just failed this request.
        """
        async with self._freed:
            # One look at the clock for both: a rest that ends between two looks would be neither
            # over for the choice nor ahead for the wait, which then might never end.
            while (server := self._choose(avoid, now := self._now())) is None:
                await self._wait(now)
            server.in_flight += 1
            return server

    async def give_back(self, server: Server[_C]) -> None:
        """Count one request less under way."""
        async with self._freed:
            server.in_flight -= 1
            self._freed.notify_all()

    async def set_limit(self, server: Server[_C], limit: int | None) -> None:
        """Change how many requests a server may have under way."""
        async with self._freed:
            server.limit = limit
            self._freed.notify_all()

    @contextmanager
    def judge(self, server: Server[_C]) -> Iterator[None]:
        """Let what a request to `server` comes to decide about the server."""
        began = self._now()
        try:
            yield
        except FaultError as err:
            if err.fault.rests_server:
                self._rest(server, err.fault, began)
            else:
                self._praise(server, began)
            raise
        self._praise(server, began)

    def nobody_there(self, tries: int) -> bool:
        """Return whether so many tries in a row found nothing to connect to, at every server."""
        return all(server.absences >= tries for server in self.servers)

    def wait_after(self, faults: int) -> float:
        """Return how long one request should pause after so many faults of its own."""
        return self._doubling(faults) * self._jitter.random()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _choose(self, avoid: Server[_C] | None, now: float) -> Server[_C] | None:
        any_well = any(server.strikes == 0 for server in self.servers)

        def free(server: Server[_C]) -> bool:
            limit = 1 if server.strikes and any_well else server.limit
            return server.resting_until <= now and (limit is None or server.in_flight < limit)

        def order(server: Server[_C]) -> tuple[bool, int]:
            return (server is avoid, server.in_flight)

        return min(filter(free, self.servers), key=order, default=None)

    async def _wait(self, now: float) -> None:
        """Sleep until a request ends somewhere, or a rest does."""
        rests = [s.resting_until - now for s in self.servers if s.resting_until > now]
        # Requests that wait for the same rest should not all come at the same moment.
        timeout = min(rests) + self._jitter.random() * self._first_wait if rests else None
        try:
            async with asyncio.timeout(timeout):
                await self._freed.wait()
        except TimeoutError:
            pass

    def _praise(self, server: Server[_C], began: float) -> None:
        """Think well again of a server that answers, unless it was asked before its last fault."""
        if began >= server.rested_at:
            server.strikes = server.absences = 0

    def _rest(self, server: Server[_C], fault: Fault, began: float) -> None:
        now = self._now()
        wait = 0.0
        if began >= server.rested_at:  # else it was asked before the fault that is known already
            server.strikes += 1
            server.absences = server.absences + 1 if fault.absent else 0
            server.rested_at = now
            wait = self._doubling(server.strikes) * (0.5 + 0.5 * self._jitter.random())
        if fault.retry_after is not None:
            wait = max(wait, min(fault.retry_after, _LONGEST_RETRY_AFTER))
        server.resting_until = max(server.resting_until, now + wait)
        if now - server.told_at >= _TELL_EVERY:  # at once, so that nobody waits without knowing why
            server.told_at = now
            logger.warning(
                "%s: %s; trying again in %.1f s",
                server.url,
                fault.detail,
                server.resting_until - now,
            )

    def _doubling(self, faults: int) -> float:
        return min(self._max_wait, self._first_wait * 2.0 ** min(faults - 1, 30))
