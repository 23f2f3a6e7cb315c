"""Connections to Ray clusters: one on this machine alone, or one of several machines."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eto_gym.errors import EtoGymError, require

logger = logging.getLogger(__name__)

_PATIENCE = "RAY_gcs_rpc_server_reconnect_timeout_s"
"""Where Ray reads how long a process may do without the head; 60 seconds where it is not set."""

_LOOK = 5.0
"""Seconds between two looks at the head."""


def import_ray(address: str | None) -> Any:
    """Import Ray, set up so that it reports nothing, and a cluster of ours is this machine's.

    Raises:
        MissingDependencyError: Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not address:
        # Ray reads this when it is first imported. 0 makes nodes listen on the loopback only, on
        # every system.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        if not _token_at_hand():  # else Ray leaves a token in the home folder
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    return require("ray", feature="the launcher 'ray'", extra="ray")


def _token_at_hand() -> bool:
    """Whether Ray would find a token, in the places where it looks."""
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(named) or (Path.home() / ".ray" / "auth_token").is_file()


@contextmanager
def ray_cluster(address: str | None = None, **options: Any) -> Iterator[None]:
    """Be connected to a Ray cluster inside the block.

    A connection that this process has already is used, and stays. Else the cluster at `address` or
    in RAY_ADDRESS is joined; without either, one is started on this machine's loopback, and stopped
    at the end.

    A cluster of several machines lets in only who shows its token. Ray shows one to an address only
    where RAY_AUTH_MODE=token says so, since it would show it to whoever listens there.

    Args:
        address: Address of a cluster's head, or "auto".
        options: Arguments of `ray.init` for a cluster that is started here.

    Raises:
        EtoGymError: There is no such cluster, or it lets nobody in without its token.
        MissingDependencyError: Ray is not installed.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    ray = import_ray(address)
    ours = not ray.is_initialized()
    if ours:
        start = {"address": "local", "include_dashboard": False, **options}
        chosen = {"address": address} if address else start
        if address:
            check_listens(address)
        try:
            ray.init(logging_level=logging.WARNING, **chosen)
        except ray.exceptions.AuthenticationError as err:
            raise EtoGymError(f"the Ray cluster at {address} {_stranger()}") from err
        except (OSError, RuntimeError, ValueError) as err:
            if "AF_UNIX" in str(err):
                raise EtoGymError(
                    f"Ray keeps sockets in {tempfile.gettempdir()}, and their paths get too long "
                    "for the system: set TMPDIR to a folder with a shorter path"
                ) from err
            # Ray does not tell a token that is missing from a cluster that is.
            hint = f". If there is one, it may be that it {_stranger()}" if address else ""
            place = address or "this machine"
            raise EtoGymError(f"no Ray cluster at {place}: {err}{hint}") from err
        own_ip = ray.util.get_node_ip_address()
        if not address and own_ip != "127.0.0.1":
            logger.warning("Ray listens on %s: it was imported before eto_gym asked it to", own_ip)
    try:
        yield
    finally:
        if ours:
            ray.shutdown()


def _stranger() -> str:
    """Say what is missing where a cluster lets nobody in without its token."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        missing = "set RAY_AUTH_MODE=token here, so that the token is shown"
    elif _token_at_hand():
        missing = "the token of this machine may be another one"
    else:
        missing = "there is none on this machine"
    return (
        f"lets in only who shows its token: {missing}. The token is in ~/.ray/auth_token of the "
        "machine that started the cluster; copy it to the same place, or name its file in "
        "RAY_AUTH_TOKEN_PATH"
    )


class Head:
    """The head of the cluster that this process is connected to.

    Ray ends a process that has missed the head for a minute, from within and at once: nothing is
    closed, and no caller hears of it. So that is noticed here, and told, before the minute is over.
    """

    def __init__(self, address: str) -> None:
        """Remember where it listens.

        Args:
            address: HOST:PORT; another kind of address is never looked at.
        """
        self._address = address
        self._limit = float(os.environ.get(_PATIENCE) or 60.0) / 2
        self._looked = time.monotonic()
        self._deaf_since: float | None = None

    def look(self) -> bool:
        """Return whether it listened at the last look, of at most some seconds ago.

        Raises:
            EtoGymError: It has not for half the time that Ray grants.
        """
        now = time.monotonic()
        if now - self._looked >= _LOOK:
            self._looked = now
            try:
                check_listens(self._address, timeout=_LOOK)
                self._deaf_since = None
            except EtoGymError as err:
                if self._deaf_since is None:
                    self._deaf_since = now
                    logger.warning("the head of the Ray cluster does not answer: %s", err)
                if now - self._deaf_since > self._limit:
                    raise EtoGymError(
                        f"the head of the Ray cluster at {self._address} is lost. What was written "
                        "stays; the same command on a new cluster goes on from there"
                    ) from err
        return self._deaf_since is None

    def wait(self) -> None:
        """Return once it listens.

        Raises:
            EtoGymError: It does not for too long, as in `look`.
        """
        while not self.look():
            time.sleep(1.0)


def check_listens(address: str, *, timeout: float = 10.0) -> None:
    """Find out at once that nothing listens; Ray takes minutes.

    Raises:
        EtoGymError: Nothing does.
    """
    host, colon, port = address.rpartition(":")
    if not colon or "/" in host or not port.isdecimal():
        return  # "auto", or an address of another kind, which Ray looks up
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=timeout).close()
    except (OSError, OverflowError) as err:
        raise EtoGymError(f"no Ray cluster at {address}: {err}") from err
