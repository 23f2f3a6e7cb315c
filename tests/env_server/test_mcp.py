"""The MCP face, asked by the package's own client."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest

from tests.toy import CORRIDOR

pytest.importorskip("mcp")


def test_an_mcp_client_plays_an_episode() -> None:
    """Over stdin and stdout, as a client's configuration starts it."""
    from mcp.client import Client
    from mcp.client.stdio import StdioServerParameters, stdio_client

    arguments = ["-m", "eto_gym.cli.main", "serve-env", CORRIDOR, "--mcp"]
    started = StdioServerParameters(command=sys.executable, args=arguments, env={"PYTHONPATH": "."})

    async def play() -> list[Any]:
        async with Client(stdio_client(started)) as client:
            names = [tool.name for tool in (await client.list_tools()).tools]
            assert names == ["list_tasks", "reset", "act"]
            told = []
            for name, given in (
                ("list_tasks", {"start": 22}),
                ("act", {"action": "go"}),
                ("reset", {"task": 1}),
                ("act", {"action": "go"}),
                ("act", {"action": "open"}),
                ("reset", {"task": "door-9/1"}),
            ):
                result = await client.call_tool(name, given)
                content: Any = result.content[0]
                text = content.text
                told.append(text if result.is_error else json.loads(text))
            return told

    tasks, early, first, moved, last, unknown = asyncio.run(play())
    assert [task["index"] for task in tasks["tasks"]] == [22, 23]
    assert "reset first" in early
    assert first["observation"]["task_id"] == "door-1/1"
    assert "right door" in first["metadata"]["instruction"]
    assert moved["observation"]["text"] == "You are at door 1."
    assert (last["reward"], last["done"]) == (1.0, True)
    assert "door-9/1" in unknown
