"""Addresses of servers: none is shown with the user and password that may stand in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

from eto_gym.errors import EtoGymError

_USERINFO = re.compile(r"://[^\s/?#]*@")


class Address(NamedTuple):
    """A server's base URL, and what it wants to know of who asks.

    Attributes:
        url: In full, without user and password: to be shown, recorded, and asked.
        user: The user, or None where the address names none.
        password: The password, "" where there is none.
    """

    url: str
    user: str | None = None
    password: str = ""


def without_userinfo(text: str) -> str:
    """Return a text with no user and password in its URLs.

    Example:
        >>> without_userinfo("could not reach http://me:secret@host:8000/v1")
        'could not reach http://host:8000/v1'
    """
    return _USERINFO.sub("://", text)


def read_addresses(base_urls: str | Sequence[str]) -> list[Address]:
    """Read base URLs, in one text with commas between or as a list.

    A URL without a scheme is one of http, one without a path ends in `/v1`.

    Raises:
        EtoGymError: There is none, one twice, or one that is not the base URL of an HTTP server.
    """
    given = base_urls.split(",") if isinstance(base_urls, str) else list(base_urls)
    addresses = [_address(item) for item in map(str.strip, given) if item]
    if not addresses or len({address.url for address in addresses}) < len(addresses):
        shown = ", ".join(address.url for address in addresses) or "none"
        raise EtoGymError(f"expected base URLs, each once, got {shown}")
    return addresses


def _address(text: str) -> Address:
    # What cannot be read may hold a password anywhere.
    shown = "one with a user or password" if "@" in text else repr(text)
    wanted = "expected a base URL as http://127.0.0.1:8000/v1"
    try:
        parts = urlsplit(text if "//" in text else f"http://{text}")
        host, port = parts.hostname, parts.port
    except ValueError as err:
        detail = "" if "@" in text else f" ({err})"
        raise EtoGymError(f"{wanted}, got {shown}{detail}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise EtoGymError(f"{wanted}, got {shown}")
    if parts.query or parts.fragment:
        raise EtoGymError(f"{wanted}, with no query and no fragment, got {shown}")
    # The host as it stands there; `hostname` has lost its capitals and brackets.
    place = parts.netloc.rpartition("@")[2]
    if port is None:
        place = place.removesuffix(":")
    url = urlunsplit((parts.scheme, place, parts.path.rstrip("/") or "/v1", "", ""))
    if parts.username is None:
        return Address(url)
    return Address(url, unquote(parts.username), unquote(parts.password or ""))
