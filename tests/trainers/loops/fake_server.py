"""A server of a model without one: `python -S fake_server.py LOG DELAY MODEL HOST PORT [WORD ...]`.

It appends its process id and its arguments to LOG, as one line of JSON, and serves coin flips. With
`--enable-lora` among the words, and the variable that vLLM asks for, it takes adapters while it
runs, and appends what it is told, with its process id, to LOG.swaps.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

# The module alone: the package would take seconds to import.
sys.path.insert(0, str(Path(__file__).parents[3] / "eto_gym" / "testing"))

import fake_endpoint  # type: ignore[import-not-found]


class Server(fake_endpoint.FakeEndpoint):  # type: ignore[misc]
    """Writes down which adapters it is told to load and unload."""

    swaps: Path

    def swap(self, path: str, body: dict[str, Any]) -> tuple[int, str]:
        status, words = super().swap(path, body)
        with self.swaps.open("a") as file:
            file.write(json.dumps([os.getpid(), path, body, status]) + "\n")
        return status, words


def main(log: str, delay: str, model: str, host: str, port: str, *more: str) -> None:
    names = [model, *(word.partition("=")[0] for word in more if "=" in word)]
    swaps = "--enable-lora" in more and os.environ.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING") == "True"
    loras: dict[str, str] | None = {} if swaps else None
    server = Server(port=int(port), models=names, delay=float(delay), loras=loras)
    server.swaps = Path(f"{log}.swaps")
    server.start()
    with Path(log).open("a") as file:
        file.write(json.dumps([os.getpid(), model, *more]) + "\n")
    while True:
        time.sleep(600)


if __name__ == "__main__":
    main(*sys.argv[1:])
