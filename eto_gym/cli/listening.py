"""Sockets of the commands that serve something."""

from __future__ import annotations

import os
import socket

from eto_gym.errors import EtoGymError


def listen(host: str, port: int) -> socket.socket:
    """Return a socket to which who reads the address may connect at once.

    Servers that open their own print lines of their logs about a port that is taken, and exit.

    Raises:
        EtoGymError: The port is taken or no port, or the address is not this machine's.
    """
    if not 0 <= port <= 65535:
        raise EtoGymError(f"expected a port in 0..65535, got {port}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except socket.gaierror as err:  # its numbers are not those of `os.strerror`
        raise EtoGymError(f"cannot listen on {host}: {err.strerror}") from err
    except OSError as err:  # `create_server` puts the address into `strerror` once more
        why = os.strerror(err.errno) if err.errno else str(err)
        raise EtoGymError(f"cannot listen on {host}:{port}: {why}") from err
