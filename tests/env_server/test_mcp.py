"""The MCP face, asked by the package's own client."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest

from eto_gym.env_server.sessions import Arena
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


@pytest.mark.parametrize(
    ("tool", "given", "told"),
    [
        ("act", {}, "act: expected the argument 'action' (string)"),
        ("act", {"action": None}, "act: expected string as 'action', got null"),
        ("act", {"action": ["go"]}, """act: expected string as 'action', got ["go"]"""),
        ("act", {"deed": "go"}, "expected argument of act in {action}, got 'deed'."),
        ("reset", {"task": {"id": 1}}, "reset: expected string or integer as 'task', got {"),
        ("reset", {"tusk": 1}, "Did you mean 'task'?"),
        ("list_tasks", {"split": 1, "start": "x\ny"}, "expected integer as 'start', got "),
        ("list_tasks", {"start": 99}, "expected 0 <= start"),
        ("fly", {}, "Unknown tool: fly"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(tool: str, given: dict[str, Any], told: str) -> None:
    from mcp.client import Client

    from eto_gym.env_server.mcp import make_mcp

    async def call() -> Any:
        async with Client(make_mcp(Arena([CORRIDOR]))) as client:
            return await client.call_tool(tool, given)

    result = asyncio.run(call())
    text = result.content[0].text
    assert result.is_error
    assert told in text
    assert "\n" not in text
    assert "pydantic" not in text


def test_a_number_may_come_as_a_text() -> None:
    from mcp.client import Client

    from eto_gym.env_server.mcp import make_mcp

    async def call() -> Any:
        async with Client(make_mcp(Arena([CORRIDOR]))) as client:
            return await client.call_tool("list_tasks", {"start": "22"})

    assert [task["index"] for task in json.loads(asyncio.run(call()).content[0].text)["tasks"]] == [
        22,
        23,
    ]
