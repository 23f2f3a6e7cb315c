"""Tools over sessions: what MCP clients call, and JSON-RPC as OpenEnv carries it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from eto_gym.env_server.sessions import Session, task_range
from eto_gym.errors import EtoGymError

_PAGE = 100


def list_tasks(session: Session, split: str | None = None, start: int = 0) -> dict[str, Any]:
    """List the tasks of a split, a hundred at a time, and how many there are.

    Args:
        session: Whose environment is meant.
        split: Name of the split; None is the benchmark's own default.
        start: Index of the first one.
    """
    tasks = session.arena.tasks(None, split)
    stop = min(len(tasks), start + _PAGE) if isinstance(start, int) else None
    return {"tasks": task_range(tasks, start, stop), "count": len(tasks)}


def reset(
    session: Session, task: str | int | None = None, split: str | None = None
) -> dict[str, Any]:
    """Begin an episode and return its first observation and the instruction.

    Args:
        session: Who plays.
        task: Id or index of the task; None draws one.
        split: Name of the split; None is the benchmark's own default.
    """
    return session.reset(task=task, split=split)


def act(session: Session, action: str) -> dict[str, Any]:
    """Take one action in the environment and return what is to be seen afterwards.

    Args:
        session: Who plays.
        action: The action, in the words that the environment understands.
    """
    return session.step(action)


TOOLS: dict[str, tuple[Callable[..., dict[str, Any]], dict[str, Any]]] = {
    "list_tasks": (list_tasks, {"split": {"type": "string"}, "start": {"type": "integer"}}),
    "reset": (reset, {"task": {"type": ["string", "integer"]}, "split": {"type": "string"}}),
    "act": (act, {"action": {"type": "string"}}),
}
"""Name of a tool -> what it does, and the schema of its arguments."""


def answer_rpc(session: Session | None, request: Any) -> dict[str, Any]:
    """Answer a JSON-RPC request for `tools/list` or `tools/call`.

    Args:
        session: Who plays; without one, tools can be listed only.
        request: The parsed request; None where it could not be parsed.
    """
    if not isinstance(request, dict):
        return _failed(None, -32700, "Parse error")
    number = request.get("id")
    number = number if isinstance(number, str | int) else None
    method, params = request.get("method"), request.get("params") or {}
    if not isinstance(method, str) or not isinstance(params, dict):
        return _failed(
            number, -32600, "Invalid request: expected a method, and an object as params"
        )
    if method == "tools/list":
        return _done(number, {"tools": [_described(name) for name in TOOLS]})
    if method != "tools/call":
        return _failed(number, -32601, f"Method not found: {method[:80]}")
    if session is None:
        return _failed(number, -32601, "tools are called in a session: send this over /ws")
    name, arguments = params.get("name"), params.get("arguments") or {}
    if not isinstance(name, str) or name not in TOOLS or not isinstance(arguments, dict):
        return _failed(number, -32602, f"Invalid params: expected one of {sorted(TOOLS)}")
    function, known = TOOLS[name]
    if unknown := arguments.keys() - known.keys():
        return _failed(number, -32602, f"Invalid params: no such argument: {sorted(unknown)[:4]}")
    if name == "act" and "action" not in arguments:
        return _failed(number, -32602, "Invalid params: expected an action")
    try:
        return _done(number, {"data": function(session, **arguments)})
    except EtoGymError as err:
        return _failed(number, -32000, str(err)[:500])


def _described(name: str) -> dict[str, Any]:
    function, known = TOOLS[name]
    schema: dict[str, Any] = {"type": "object", "properties": known}
    if name == "act":
        schema["required"] = ["action"]
    summary = (function.__doc__ or "").partition("\n")[0]
    return {"name": name, "description": summary, "inputSchema": schema}


def _done(number: str | int | None, result: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "result": result}


def _failed(number: str | int | None, code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": message}}
