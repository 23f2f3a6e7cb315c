"""A local HTTP server that can break: it resumes, or not, and drops connections on demand."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """What the server serves, how it misbehaves, and what was asked of it."""

    files: dict[str, bytes]
    url: str = ""
    tag: str | None = '"v1"'
    ranges: bool = True
    drop_after: list[int] = field(default_factory=list)
    """Bytes after which the next answers break off, one entry per answer."""
    errors: list[int] = field(default_factory=list)
    """Status codes of the next answers."""
    wrong_range: bool = False
    leads_to: str = ""
    """Where all answers send the client on to."""
    tells_length: bool = True
    length: str | None = None
    """What is told in the place of the length."""
    requests: list[str | None] = field(default_factory=list)
    """The Range header of each request."""


@contextmanager
def serve(files: dict[str, bytes]) -> Iterator[Site]:
    """Serve `files` by their path on the loopback interface."""
    site = Site(files)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            site.requests.append(wanted)
            if site.leads_to:
                self.send_response(302)
                self.send_header("Location", site.leads_to)
                self.end_headers()
                return
            body = site.files.get(self.path.lstrip("/"))
            if site.errors or body is None:
                self.send_error(site.errors.pop(0) if site.errors else 404)
                return
            start, status = 0, 200
            if wanted and site.ranges and self.headers.get("If-Range") in {None, site.tag}:
                start, status = int(wanted.removeprefix("bytes=").rstrip("-")), 206
                if start >= len(body):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(body)}")
                    self.end_headers()
                    return
            self.send_response(status)
            if site.tag:
                self.send_header("ETag", site.tag)
            if status == 206:
                told = start + 1 if site.wrong_range else start
                self.send_header("Content-Range", f"bytes {told}-{len(body) - 1}/{len(body)}")
            if site.tells_length:
                self.send_header("Content-Length", site.length or str(len(body) - start))
            self.end_headers()
            end = len(body)
            if site.drop_after:
                end = min(end, start + site.drop_after.pop(0))
            self.wfile.write(body[start:end])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
