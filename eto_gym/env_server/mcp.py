"""An MCP server over one session: tools that list tasks, begin an episode, and act."""

from __future__ import annotations

from typing import Any

import eto_gym
from eto_gym.env_server import rpc
from eto_gym.env_server.sessions import Arena
from eto_gym.errors import EtoGymError, require


def make_mcp(arena: Arena) -> Any:
    """Return an `MCPServer` whose tools play one episode at a time.

    Args:
        arena: What is played; the server takes a session of it.

    Raises:
        MissingDependencyError: The package `mcp` is not installed.
    """
    require("mcp", feature="serve-env --mcp", extra="mcp")
    from mcp.server import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError

    session = arena.open()
    server = MCPServer(
        "eto-gym",
        version=eto_gym.__version__,
        instructions=f"Plays {', '.join(arena.env_ids)}: reset first, then act until it is done.",
    )

    def told(function: Any, *args: Any) -> dict[str, Any]:
        try:
            found: dict[str, Any] = function(session, *args)
        except EtoGymError as err:
            raise ToolError(str(err)) from err
        return found

    @server.tool()
    def list_tasks(split: str | None = None, start: int = 0) -> dict[str, Any]:
        """List the tasks of a split, a hundred at a time, and how many there are."""
        return told(rpc.list_tasks, split, start)

    @server.tool()
    def reset(task: str | int | None = None, split: str | None = None) -> dict[str, Any]:
        """Begin an episode of a task (id or index); return the observation and the instruction."""
        return told(rpc.reset, task, split)

    @server.tool()
    def act(action: str) -> dict[str, Any]:
        """Take one action, in the words of the environment, and return what is to be seen."""
        return told(rpc.act, action)

    return server
