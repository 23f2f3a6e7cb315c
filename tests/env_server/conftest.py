"""A served corridor."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from eto_gym.env_server.sessions import Arena
from tests.toy import CORRIDOR


class Served:
    """A server in a thread of this process."""

    def __init__(self, arena: Arena, url: str) -> None:
        self.arena, self.url = arena, url

    @contextmanager
    def talk(self, token: str = "t") -> Iterator[Callable[[Any], dict[str, Any]]]:
        """Connect, and yield what sends a message and returns the answer."""
        from websockets.sync.client import connect

        headers = {"Authorization": f"Bearer {token}"}
        url = self.url.replace("http", "ws") + "/ws"
        with connect(url, additional_headers=headers, proxy=None) as socket:

            def ask(message: Any) -> dict[str, Any]:
                if message is not None:
                    plain = isinstance(message, str | bytes)
                    socket.send(message if plain else json.dumps(message))
                answer: dict[str, Any] = json.loads(socket.recv(timeout=20))
                return answer

            yield ask

    def settled(self, sessions: int) -> bool:
        """Whether so many sessions are open soon."""
        deadline = time.monotonic() + 20
        while len(self.arena._open) != sessions and time.monotonic() < deadline:
            time.sleep(0.01)
        return len(self.arena._open) == sessions

    @property
    def forks(self) -> int:
        """Number of snapshots that are kept."""
        return len(self.arena._forks)


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    uvicorn = pytest.importorskip("uvicorn")
    pytest.importorskip("starlette")
    pytest.importorskip("websockets")
    from eto_gym.env_server.openenv import Server, make_app

    stops: list[Callable[[], None]] = []

    def start(
        *envs: str, token: str | None = "t", idle_timeout: float = 60.0, max_sessions: int = 8
    ) -> Served:
        arena = Arena(envs or (CORRIDOR,), max_sessions=max_sessions)
        server = Server(arena, token=token, idle_timeout=idle_timeout)
        config = uvicorn.Config(make_app(server), port=0, log_level="error")
        serving = uvicorn.Server(config)
        listening = config.bind_socket()
        thread = threading.Thread(target=serving.run, kwargs={"sockets": [listening]})
        thread.start()
        while not serving.started:
            time.sleep(0.01)

        def stop() -> None:
            serving.should_exit = True
            thread.join()
            server.close()

        stops.append(stop)
        return Served(arena, f"http://127.0.0.1:{listening.getsockname()[1]}")

    yield start
    for stop in stops:
        stop()
