"""The site's log of requests."""

from __future__ import annotations

import re
import sys
from typing import Any

from werkzeug.serving import WSGIRequestHandler

_STYLE = re.compile(r"\x1b\[[0-9;]*m")


class LoggedRequest(WSGIRequestHandler):
    """Logs a request to stderr, in colours only where that is a terminal."""

    def log(self, type: str, message: str, *args: Any) -> None:
        """Log a line; what a client sent has no escape characters any more."""
        if not sys.stderr.isatty():
            message = _STYLE.sub("", message)
            args = tuple(_STYLE.sub("", arg) if isinstance(arg, str) else arg for arg in args)
        super().log(type, message, *args)
