"""Addresses of servers, and what of them may be shown."""

from __future__ import annotations

import pytest

from eto_gym.errors import EtoGymError
from eto_gym.urls import Address, read_addresses, without_userinfo


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("host:8000", Address("http://host:8000/v1")),
        ("https://h/base/v1/", Address("https://h/base/v1")),
        ("http://me:s%40x@Host:1", Address("http://Host:1/v1", "me", "s@x")),
        ("me@host", Address("http://host/v1", "me", "")),
        ("http://me:a@b@[::1]:8/x", Address("http://[::1]:8/x", "me", "a@b")),
    ],
)
def test_users_are_taken_out_of_an_address(text: str, address: Address) -> None:
    assert read_addresses(text) == [address]
    assert without_userinfo(f"at {address.url}") == f"at {address.url}"


@pytest.mark.parametrize(
    "text",
    [
        "ftp://me:secret@host",
        "http://me:secret@",
        "http://me:secret@host:port",
        "http://me:secret@[::1",
        "http://me:se,cret@host",
        "http://me:secret@host?x=1",
        "http://me:secret@host,http://you:secret@host",
        "http://host/v1?key=1",
        "http://[::1",
        "",
    ],
)
def test_what_cannot_be_read_is_refused_and_no_password_told(text: str) -> None:
    with pytest.raises(EtoGymError, match="expected") as caught:
        read_addresses(text)
    assert "secret" not in str(caught.value)
    assert "cret" not in str(caught.value)
    assert caught.value.__cause__ is None
