"""Ports of this machine that nobody else is given."""

from __future__ import annotations

import socket


def hold_port() -> socket.socket:
    """Bind a free port of the loopback interface, and listen nowhere.

    Until the socket is closed, the system gives the port to nobody who asks for any free one, and
    refuses connections to it; who names it and allows its reuse can serve there, again and again.

    Returns:
        The socket, whose `getsockname()[1]` is the port.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what Linux asks for
    if hasattr(socket, "SO_REUSEPORT"):
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # what BSD asks for
    held.bind(("127.0.0.1", 0))
    return held
