"""The adapters, played by the frameworks themselves."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from eto_gym import registration
from eto_gym.errors import EtoGymError
from eto_gym.testing.fake_endpoint import FakeEndpoint
from tests.toy import CORRIDOR

pytestmark = pytest.mark.interop


@pytest.mark.parametrize("success", [False, True])
def test_inspect_plays_and_scores(tmp_path: Any, *, success: bool) -> None:
    """With a model behind a local endpoint, which opens the right door or the next one."""
    inspect_ai = pytest.importorskip("inspect_ai")
    from inspect_ai.model import get_model

    from eto_gym.adapters.inspect import eto_gym

    words = ["no action at all", "Thought: on\nAction: go", "Thought: here\nAction: open"]
    if success:
        del words[1]
    with FakeEndpoint() as fake:
        fake.answer = lambda body: words[len(fake.requests) - 1]
        (log,) = inspect_ai.eval(
            eto_gym(CORRIDOR, split="test", limit=1),
            model=get_model("openai-api/fake/m", base_url=fake.url, api_key="none"),
            log_dir=str(tmp_path),
            display="none",
        )
    assert log.status == "success", log.error
    (sample,) = log.samples
    reward = 1.0 if success else -0.5
    assert sample.scores["engine"].value == {"success": float(success), "reward": reward}
    assert sample.id == "door-0/0"
    assert [m.role for m in sample.messages][-2:] == ["assistant", "user"]
    assert len(fake.requests) == len(words)


@pytest.mark.parametrize(
    ("name", "kwargs", "first"),
    [
        ("corridor", "{}", "door-0/0"),
        ("Corridor-v0", {"split": "test"}, "door-0/0"),
        ("alfworld", "{}", ""),
        (CORRIDOR, "{}", "door-0/0"),
    ],
)
def test_inspect_takes_the_names_that_commands_take(
    monkeypatch: pytest.MonkeyPatch, name: str, kwargs: Any, first: str
) -> None:
    pytest.importorskip("inspect_ai")
    from eto_gym.adapters.inspect import eto_gym

    offered = {"Corridor-v0": CORRIDOR}
    monkeypatch.setattr(registration, "plugin_ids", lambda: offered)
    (sample,) = eto_gym(name, limit=1, env_kwargs=kwargs).dataset
    assert str(sample.id).startswith(first)


@pytest.mark.parametrize("kwargs", ["[1]", "{", "1" * 5000])
def test_inspect_names_arguments_that_are_none(kwargs: str) -> None:
    pytest.importorskip("inspect_ai")
    from eto_gym.adapters.inspect import eto_gym

    with pytest.raises(EtoGymError, match="expected a JSON object as env_kwargs"):
        eto_gym(CORRIDOR, env_kwargs=kwargs)
    with pytest.raises(EtoGymError, match="Did you mean"):
        eto_gym("alfword")


def test_verifiers_loads_and_its_environment_plays() -> None:
    """The model is played by a stand-in; taskset, tasks and environment are verifiers' own."""
    pytest.importorskip("verifiers.v1")
    from eto_gym.adapters.verifiers import EtoGymConfig, EtoGymEnv, EtoGymTaskset

    taskset = EtoGymTaskset(EtoGymConfig(env=CORRIDOR, split="test", limit=3))
    tasks = list(taskset)
    assert [task.data.id for task in tasks] == ["door-0/0", "door-1/1", "door-2/2"]
    assert [task.data.idx for task in tasks] == [0, 1, 2]
    assert "open door 1" in tasks[1].data.prompt_text
    recorded: dict[str, float] = {}
    heard: list[str | None] = []

    @asynccontextmanager
    async def interaction(task: Any) -> AsyncIterator[Any]:
        replies = iter(["Thought: on\nAction: go", "Thought: here\nAction: open"])

        async def turn(text: str | None = None) -> Any:
            heard.append(text)
            return SimpleNamespace(terminated=False, last_reply=next(replies))

        trace = SimpleNamespace(
            record_reward=lambda name, value, weight: recorded.update({name: value}),
            record_metric=lambda name, value: recorded.update({name: value}),
        )
        yield SimpleNamespace(turn=turn, trace=trace)

    agents = SimpleNamespace(player=SimpleNamespace(interaction=interaction))
    asyncio.run(EtoGymEnv.run(SimpleNamespace(), tasks[1], agents))  # type: ignore[arg-type]
    assert recorded == {"reward": 1.0, "success": 1.0, "steps": 2.0}
    assert heard[0] is None
    assert "at door 1" in str(heard[1])


ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(600)
def test_verifiers_own_command_and_harness_play(tmp_path: Path) -> None:
    """`vf-eval` with its chat program in its local runtime, and a model behind a local endpoint.

    The program's packages come with verifiers, so that what stands for `uv` here only names Python.
    """
    pytest.importorskip("verifiers.v1")
    (tmp_path / "bin").mkdir()
    uv = tmp_path / "bin" / "uv"
    uv.write_text(f'#!/bin/sh\n[ "$1" = python ] && echo "{sys.executable}"\nexit 0\n')
    uv.chmod(0o755)

    def answer(body: dict[str, Any]) -> str:
        there = "at door 1" in body["messages"][-1]["content"]  # right for the second task alone
        return "Thought: here\nAction: open" if there else "Thought: on\nAction: go"

    with FakeEndpoint() as fake:
        fake.answer = answer
        main = "from verifiers.v1.cli.eval.main import main; main()"
        taskset = ["--env.taskset.env", CORRIDOR, "--env.taskset.split", "test"]
        client = ["-m", "m", "--client.base-url", fake.url, "-n", "2"]
        out = ["--no-rich", "--no-push", "-o", str(tmp_path / "out")]
        env = {
            **os.environ,
            "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "-c", main, "eto-gym-verifiers", *taskset, *client, *out]
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (traces,) = (tmp_path / "out").rglob("traces.jsonl")
    played = [json.loads(line) for line in traces.read_text().splitlines()]
    assert sorted(t["rewards"]["reward"]["score"] for p in played for t in p["traces"]) == [-0.5, 1]
    metrics = [t["metrics"] for p in played for t in p["traces"]]
    assert sorted(each["success"] for each in metrics) == [0.0, 1.0]
    assert [each["steps"] for each in metrics] == [2.0, 2.0]
    assert len(fake.requests) == 4
    assert fake.requests[-1]["messages"][-1]["role"] == "user"
