"""A server to be started by tests: `python small_server.py MODEL HOST PORT [die|stubborn|mute]`.

It writes its process id to the file MODEL. A stubborn one ignores requests to end, and has a child
that does, too.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()


def main(model: str, host: str, port: str, manner: str = "") -> None:
    pids = [os.getpid()]
    if manner == "die":
        sys.exit("no such weights")
    if manner == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
        pids.append(subprocess.Popen([sys.executable, "-c", child]).pid)
    with Path(model).open("a") as file:
        file.write("".join(f"{pid}\n" for pid in pids))
    if manner == "mute":
        time.sleep(600)
    try:
        server = HTTPServer((host, int(port)), Handler)
    except OSError as err:
        sys.exit(str(err))
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
