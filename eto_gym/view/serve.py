"""The viewer as a site on this machine, which follows the files while they grow."""

from __future__ import annotations

import hashlib
import io
import logging
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from eto_gym.errors import DataError, EtoGymError
from eto_gym.view.page import write_page
from eto_gym.view.sources import watched

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
_VERSION = "/version"
_REST = 5.0  # a page is made again only after this many times what making it took


class LivePage:
    """The page, made again when what it shows has changed."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Name the files and folders."""
        self.paths = list(paths)
        self._lock = threading.Lock()
        self._page = b""
        self._made_of = ""
        self._seen = ""
        self._seen_until = 0.0

    def version(self) -> str:
        """Return a text that changes with the files, but not so often that nothing else is done."""
        with self._lock:
            now = time.monotonic()
            if now >= self._seen_until:
                self._seen = _state(self.paths)
                self._seen_until = now
            return self._seen

    def state(self) -> bytes:
        """Return the version as it is sent."""
        return self.version().encode()

    def page(self) -> bytes:
        """Return the page for the files as they are."""
        version = self.version()
        with self._lock:
            if version != self._made_of:
                begun = time.monotonic()
                text = io.StringIO()
                write_page(text, self.paths, live=_VERSION)
                self._page, self._made_of = text.getvalue().encode("ascii"), version
                self._seen_until = time.monotonic() + _REST * (time.monotonic() - begun)
            return self._page


def _state(paths: Sequence[Path]) -> str:
    """Return a digest of the names, sizes and times of all files."""
    digest = hashlib.sha256()
    for path in watched(paths):
        try:
            stamp = path.stat()
        except OSError:
            continue  # it went away meanwhile
        digest.update(f"{path}\0{stamp.st_size}\0{stamp.st_mtime_ns}\n".encode("utf-8", "replace"))
    return digest.hexdigest()


def make_server(paths: Sequence[Path], *, port: int = 0) -> ThreadingHTTPServer:
    """Return a server on the loopback interface that serves the page; the caller starts it.

    Args:
        paths: What to show.
        port: 0 takes any free one.

    Raises:
        EtoGymError: There is nothing to show, or the port is taken.
    """
    live = LivePage(paths)
    live.page()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                self._get()
            except ConnectionError:  # the reader did not wait
                self.close_connection = True

        def _get(self) -> None:
            names = {f"{HOST}:{self.server.server_port}", f"localhost:{self.server.server_port}"}  # type: ignore[attr-defined]
            if self.headers.get("Host") not in names:  # a foreign name that leads here
                self._answer(403, "text/plain", b"this site is for this machine only")
                return
            kinds = {"/": ("text/html", live.page), _VERSION: ("text/plain", live.state)}
            if self.path not in kinds:
                self._answer(404, "text/plain", b"there is only /")
                return
            kind, make = kinds[self.path]
            try:
                status, body = 200, make()
            except (DataError, OSError) as err:  # the folder is being written anew, say
                status, kind, body = 503, "text/plain", str(err).encode("utf-8", "replace")
            self._answer(status, kind, body)

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("X-Frame-Options", "DENY")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            logger.debug(format, *args)

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except OSError as err:
        raise EtoGymError(f"cannot listen on {HOST}:{port}: {err.strerror}") from err
