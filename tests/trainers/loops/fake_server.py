"""A server of a model without one: `python -S fake_server.py LOG DELAY MODEL HOST PORT [WORD ...]`.

It appends its process id and its arguments to LOG, as one line of JSON, and serves coin flips.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

# The module alone: the package would take seconds to import.
sys.path.insert(0, str(Path(__file__).parents[3] / "eto_gym" / "testing"))

import fake_endpoint  # type: ignore[import-not-found]


def main(log: str, delay: str, model: str, host: str, port: str, *more: str) -> None:
    names = [model, *(word.partition("=")[0] for word in more if "=" in word)]
    server = fake_endpoint.FakeEndpoint(port=int(port), models=names, delay=float(delay))
    server.start()
    with Path(log).open("a") as file:
        file.write(json.dumps([os.getpid(), model, *more]) + "\n")
    while True:
        time.sleep(600)


if __name__ == "__main__":
    main(*sys.argv[1:])
