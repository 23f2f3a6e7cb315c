"""Tools over sessions: what MCP clients call, and JSON-RPC as OpenEnv carries it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from eto_gym.env_server.sessions import Session, task_range
from eto_gym.errors import EtoGymError, unknown_name

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
_NEEDED = {"act": ("action",)}
"""Name of a tool -> arguments that it cannot do without."""


def check_names(tool: str, arguments: Mapping[str, Any]) -> None:
    """Check that arguments are those of a tool, and that none is missing.

    Raises:
        EtoGymError: They are not; says which, in one line.
    """
    known = TOOLS[tool][1]
    for name in arguments:
        if name not in known:
            raise unknown_name(f"argument of {tool}", name[:80], known)
    for name in _NEEDED.get(tool, ()):
        if name not in arguments:
            raise EtoGymError(f"{tool}: expected the argument {name!r} ({_kind(tool, name)})")


def wrong_kinds(tool: str, names: Iterable[str], arguments: Mapping[str, Any]) -> str:
    """Say in one line what was expected as these arguments of a tool, and what came."""
    parts = [
        f"expected {_kind(tool, name)} as {name!r}, got {json.dumps(arguments[name])[:40]}"
        for name in names
    ]
    return f"{tool}: " + "; ".join(parts)


def _kind(tool: str, name: str) -> str:
    kinds = TOOLS[tool][1][name]["type"]
    return kinds if isinstance(kinds, str) else " or ".join(kinds)


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
    try:
        check_names(name, arguments)
    except EtoGymError as err:
        return _failed(number, -32602, f"Invalid params: {err}")
    try:
        return _done(number, {"data": TOOLS[name][0](session, **arguments)})
    except EtoGymError as err:
        return _failed(number, -32000, str(err)[:500])


def _described(name: str) -> dict[str, Any]:
    function, known = TOOLS[name]
    schema: dict[str, Any] = {"type": "object", "properties": known}
    if name in _NEEDED:
        schema["required"] = list(_NEEDED[name])
    summary = (function.__doc__ or "").partition("\n")[0]
    return {"name": name, "description": summary, "inputSchema": schema}


def _done(number: str | int | None, result: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "result": result}


def _failed(number: str | int | None, code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": message}}
