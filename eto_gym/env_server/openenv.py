"""OpenEnv's protocol over our sessions: a WebSocket per session, and pages that describe it all.

Source: https://github.com/meta-pytorch/OpenEnv, as of its package `openenv` 0.10. Messages are JSON
objects with a `type` (reset, step, state, close, mcp) and `data`; every one gets one answer, and a
message that cannot be read gets an error and nothing else happens.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import eto_gym
from eto_gym.env_server.rpc import answer_rpc
from eto_gym.env_server.sessions import Arena, AtCapacityError, Session, task_range
from eto_gym.errors import EtoGymError, require, unknown_name
from eto_gym.files import strict_json
from eto_gym.tasks import TaskSet

logger = logging.getLogger(__name__)
T = TypeVar("T")

MAX_MESSAGE = 1 << 20
"""Bytes of a message that are taken; a longer one ends its connection."""
_OPEN_PAGES = frozenset({"/health", "/metadata", "/schema", "/openapi.json"})
"""What is told without a token: nothing that an episode or a task is made of."""


class Server:
    """What the application needs beside the sessions."""

    def __init__(self, arena: Arena, *, token: str | None, idle_timeout: float) -> None:
        """Remember the limits.

        Args:
            arena: The sessions.
            token: What clients must send as `Authorization: Bearer TOKEN`; None lets in everybody
                but the pages of a browser.
            idle_timeout: Seconds without a message after which a session is closed.
        """
        self.arena = arena
        self._token = token
        self._idle_timeout = idle_timeout
        # Engines of this process share caches and the interpreter: one thread for all of them.
        # What computes elsewhere (a Java process) gets threads, one at a time for a session.
        self._own = ThreadPoolExecutor(1, thread_name_prefix="eto-gym-env")
        self._elsewhere = ThreadPoolExecutor(8, thread_name_prefix="eto-gym-lane")

    def close(self) -> None:
        """Close the sessions and end the threads."""
        self._own.submit(self.arena.close).result()
        self._own.shutdown()
        self._elsewhere.shutdown()

    def admits(self, headers: Mapping[str, str], query: Mapping[str, str]) -> bool:
        """Whether a request may come in."""
        if self._token is None:
            return "origin" not in headers  # a page that some browser shows
        kind, _, sent = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer":
            sent = query.get("token", "")
        return secrets.compare_digest(sent.encode(), self._token.encode())

    async def call(self, session: Session | None, function: Callable[[], T]) -> T:
        """Run what may take long in the thread where it belongs."""
        pool = self._own if session is None or session.lane() is None else self._elsewhere
        return await asyncio.get_running_loop().run_in_executor(pool, function)

    # --- a session -------------------------------------------------------------------------------

    async def play(self, websocket: Any) -> None:
        """Serve one connection until it ends; whatever happens, its session ends with it."""
        from starlette.websockets import WebSocketDisconnect

        if not self.admits(websocket.headers, websocket.query_params):
            await websocket.close(code=1008)  # before it is accepted: HTTP 403
            return
        await websocket.accept()
        session = None
        try:
            session = self.arena.open()
            while await self._exchange(websocket, session):
                pass
            await websocket.close()
        except AtCapacityError as err:
            await websocket.send_text(_error("CAPACITY_REACHED", str(err)))
            await websocket.close(code=1013)
        except TimeoutError:
            idle = f"no message for {self._idle_timeout:g} s: the session is closed"
            await websocket.send_text(_error("SESSION_ERROR", idle))
            await websocket.close(code=1001)
        except (WebSocketDisconnect, RuntimeError) as err:  # Starlette's words for a lost client
            logger.debug("a client has gone: %s", err)
        finally:
            if session is not None:
                await asyncio.shield(self.call(None, session.close))

    async def _exchange(self, websocket: Any, session: Session) -> bool:
        """Take one message and answer it; False where it asks for the end."""
        async with asyncio.timeout(self._idle_timeout):
            received = await websocket.receive()
        if received["type"] == "websocket.disconnect":
            from starlette.websockets import WebSocketDisconnect

            raise WebSocketDisconnect(received.get("code", 1000))
        text = received.get("text")
        if text is None:
            await websocket.send_text(_error("INVALID_JSON", "expected text, got bytes"))
            return True
        try:
            message = json.loads(text)
        except (ValueError, RecursionError) as err:
            await websocket.send_text(_error("INVALID_JSON", f"Invalid JSON: {str(err)[:200]}"))
            return True
        if isinstance(message, dict) and message.get("type") == "close":
            return False
        await websocket.send_text(await self._answer(session, message))
        return True

    async def _answer(self, session: Session, message: Any) -> str:
        if not isinstance(message, dict):
            return _error("VALIDATION_ERROR", "expected an object with a type")
        kind, data = message.get("type"), message.get("data", {})
        if kind not in ("reset", "step", "state", "mcp"):
            return _error("UNKNOWN_TYPE", f"Unknown message type: {str(kind)[:80]}")
        if not isinstance(data, dict):
            return _error("VALIDATION_ERROR", "expected an object as data")
        try:
            if kind == "state":
                return _message("state", session.state())
            if kind == "mcp":
                return _message("mcp", await self.call(session, lambda: answer_rpc(session, data)))
            if kind == "reset":
                seen = await self.call(session, lambda: session.reset(**data))
                return _message("observation", seen)
            unknown = data.keys() - {"action", "fork", "metadata"}
            if unknown or "action" not in data:
                expected = "expected 'action', and 'fork' if at all, as data of a step"
                return _error("VALIDATION_ERROR", f"{expected}, got {sorted(data)[:8]}"[:300])
            keep = data.get("fork") or False
            if not isinstance(keep, bool):
                return _error(
                    "VALIDATION_ERROR", f"expected true or false as fork, got {keep!r:.40}"
                )
            seen = await self.call(session, lambda: session.step(data["action"], fork=keep))
            return _message("observation", seen)
        except EtoGymError as err:
            return _error("EXECUTION_ERROR", str(err)[:500])
        except Exception as err:  # of an engine: this session's alone
            logger.exception("a session's %s failed", kind)
            return _error("EXECUTION_ERROR", f"{type(err).__name__}: {err}"[:500])


class _Pages:
    """What is asked for and answered in one request, beside the sessions' WebSockets."""

    def __init__(self, server: Server) -> None:
        self._server, self._arena = server, server.arena

    async def environments(self, request: Any) -> Any:
        return await self._guarded(request, lambda _: list(self._arena.env_ids))

    async def splits(self, request: Any) -> Any:
        def tell(_: Any) -> Any:
            kinds = {"train": "train", "test": "test"}
            names = self._arena.splits(self._env_of(request))
            return [{"name": name, "type": kinds.get(name, "validation")} for name in names]

        return await self._guarded(request, tell)

    async def tasks(self, request: Any) -> Any:
        def tell(body: dict[str, Any]) -> Any:
            return {**self._some(request, body), "env_name": self._env_of(request)}

        return await self._guarded(request, tell)

    async def num_tasks(self, request: Any) -> Any:
        def tell(body: dict[str, Any]) -> Any:
            return {"num_tasks": len(self._chosen(request, body))}

        return await self._guarded(request, tell)

    async def task(self, request: Any) -> Any:
        def tell(body: dict[str, Any]) -> Any:
            index = body.get("index")
            if type(index) is not int:
                raise EtoGymError("expected a whole number as index")
            return {"task": task_range(self._chosen(request, body, "index"), index, index + 1)[0]}

        return await self._guarded(request, tell)

    async def task_range(self, request: Any) -> Any:
        return await self._guarded(request, lambda body: self._some(request, body))

    async def mcp(self, request: Any) -> Any:
        try:
            body = await _body(request)
        except ValueError:
            return _as_json(answer_rpc(None, None))
        if "method" in body and not self._server.admits(request.headers, request.query_params):
            return _as_json({"detail": "expected Authorization: Bearer TOKEN"}, 401)
        return _as_json(answer_rpc(None, body))

    async def _guarded(self, request: Any, function: Callable[[dict[str, Any]], Any]) -> Any:
        """Answer who may ask with what `function` makes of the body, or with what is wrong."""
        if not self._server.admits(request.headers, request.query_params):
            return _as_json({"detail": "expected Authorization: Bearer TOKEN"}, 401)
        body: Any = {}
        if request.method == "POST":
            try:
                body = await _body(request)
            except ValueError as err:
                return _as_json({"detail": str(err)[:200]}, 422)
        try:
            return _as_json(await self._server.call(None, lambda: function(body)))
        except EtoGymError as err:
            return _as_json({"detail": str(err)[:500]}, 400)

    def _env_of(self, request: Any) -> str:
        return self._arena.choose_env(request.path_params["env_name"])

    def _some(self, request: Any, body: dict[str, Any]) -> dict[str, Any]:
        """Return the tasks that `body` asks for, and how many there are to ask for."""
        known = self._chosen(request, body, "start", "stop")
        found = task_range(known, body.get("start"), body.get("stop"))
        return {"tasks": found, "num_tasks": len(known)}

    def _chosen(self, request: Any, body: dict[str, Any], *more: str) -> TaskSet:
        """Return the tasks that `body` means, which may hold no keys but "split" and `more`."""
        for key in body:
            if key not in ("split", *more):
                raise unknown_name("key", key[:80], ("split", *more))
        return self._arena.tasks(self._env_of(request), _text_or_none(body.get("split")))


def make_app(server: Server) -> Any:
    """Return the ASGI application.

    Raises:
        MissingDependencyError: Starlette is not installed.
    """
    require("starlette", feature="serve-env", extra="openenv")
    from starlette.applications import Starlette
    from starlette.routing import Route, WebSocketRoute

    pages = _Pages(server)
    name = "/{env_name:path}"
    return Starlette(
        routes=[
            Route("/health", _fixed({"status": "healthy"})),
            Route("/metadata", _fixed(_metadata(server.arena))),
            Route("/schema", _fixed(SCHEMA)),
            Route("/openapi.json", _fixed(_openapi())),
            Route("/mcp", pages.mcp, methods=["POST"]),
            Route("/list_environments", pages.environments),
            Route(f"{name}/splits", pages.splits),
            Route(f"{name}/tasks", pages.tasks, methods=["POST"]),
            Route(f"{name}/num_tasks", pages.num_tasks, methods=["POST"]),
            Route(f"{name}/task", pages.task, methods=["POST"]),
            Route(f"{name}/task_range", pages.task_range, methods=["POST"]),
            WebSocketRoute("/ws", server.play),
        ]
    )


def _as_json(value: Any, status: int = 200) -> Any:
    from starlette.responses import Response

    # Starlette's own JSON cannot carry half of a character, which a request may hold.
    return Response(strict_json(value), status, media_type="application/json")


def _fixed(value: Any) -> Callable[[Any], Any]:
    """Return a page that always says the same."""

    async def show(_: Any) -> Any:
        return _as_json(value)

    return show


def _text_or_none(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise EtoGymError(f"expected a text as split, got {str(value)[:40]!r}")
    return value


async def _body(request: Any) -> dict[str, Any]:
    """Read a JSON object of a bounded length.

    Raises:
        ValueError: It is too long, or none.
    """
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_MESSAGE:
            raise ValueError(f"the body is longer than {MAX_MESSAGE} bytes")
    try:
        value = json.loads(data)
    except RecursionError as err:
        raise ValueError("the body is nested too deeply") from err
    if not isinstance(value, dict):
        raise ValueError("expected a JSON object")
    return value


def _message(kind: str, data: Any) -> str:
    return strict_json({"type": kind, "data": data})


def _error(code: str, message: str) -> str:
    return _message("error", {"message": message, "code": code})


# --- descriptions --------------------------------------------------------------------------------


def _object(**kinds: str) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"type": kind} for name, kind in kinds.items()}}


SCHEMA = {
    "action": {**_object(action="string", fork="boolean"), "required": ["action"]},
    "observation": {
        **_object(
            text="string",
            task_id="string",
            task_type="string",
            score="number",
            success="boolean",
            admissible_actions="array",
            terminated="boolean",
            truncated="boolean",
        ),
        "required": ["text", "task_id"],
    },
    "state": _object(
        episode_id="string",
        step_count="integer",
        env="string",
        task_id="string",
        reward="number",
        done="boolean",
    ),
}
"""JSON schemas of what goes over the wire."""


def _metadata(arena: Arena) -> dict[str, Any]:
    return {
        "name": arena.env_ids[0],
        "description": "Text environments for LLM agents: " + ", ".join(arena.env_ids),
        "version": eto_gym.__version__,
        "max_concurrent_envs": arena.max_sessions,
    }


def _openapi() -> dict[str, Any]:
    get: dict[str, Any] = {"get": {"responses": {}}}
    post: dict[str, Any] = {"post": {"responses": {}}}
    pages = dict.fromkeys(sorted(_OPEN_PAGES), get)
    tasks = {f"/{{env_name}}/{name}": post for name in ("tasks", "num_tasks", "task", "task_range")}
    return {
        "openapi": "3.1.0",
        "info": {"title": "eto-gym", "version": "1.0.0"},
        "paths": {**pages, "/mcp": post, "/{env_name}/splits": get, **tasks},
    }
