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
    from pydantic import ValidationError

    class OneLine(MCPServer):
        """Says in one line what is wrong with the arguments of a tool."""

        async def call_tool(self, name: str, arguments: dict[str, Any], context: Any = None) -> Any:
            if name not in rpc.TOOLS:
                return await super().call_tool(name, arguments, context)
            try:
                rpc.check_names(name, arguments)
                return await super().call_tool(name, arguments, context)
            except EtoGymError as err:
                raise ToolError(str(err)) from None
            except ToolError as err:
                if not isinstance(err.__cause__, ValidationError):
                    raise
                # Of an argument that may be of several kinds there is an error for each.
                names = dict.fromkeys(str(found["loc"][0]) for found in err.__cause__.errors())
                raise ToolError(rpc.wrong_kinds(name, names, arguments)) from None

    session = arena.open()
    server = OneLine(
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
