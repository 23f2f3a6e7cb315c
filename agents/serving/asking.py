"""One request to a server that is asked for more than replies."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from typing import Any

from eto_gym.errors import EtoGymError


def ask(url: str, body: dict[str, Any] | None, timeout: float, *, remedy: str) -> bytes:
    """Return the whole answer to a request; with a body it is posted.

    Args:
        url: Where.
        body: Is sent as JSON; None: nothing is sent.
        timeout: Seconds without a word of the server.
        remedy: What to do where it refuses; ends the message.

    Raises:
        EtoGymError: It refuses, or does not answer.
    """
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as err:
        with err:
            words = err.read(2000).decode(errors="replace").strip()
        raise EtoGymError(f"{url} answers {err.code}: {words}. {remedy}") from err
    except (OSError, http.client.HTTPException) as err:
        raise EtoGymError(f"no answer from {url}: {err}") from err
