"""Environments over OpenEnv's WebSocket: what is played, and what is refused."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import pytest

from eto_gym.env import text_env
from eto_gym.env_server import sessions
from eto_gym.env_server.sessions import Arena
from eto_gym.errors import EtoGymError, UnknownNameError
from eto_gym.tasks import Task, TaskSet
from tests.env_server.conftest import Served
from tests.toy import CORRIDOR

Serve = Callable[..., Served]


def reset(**data: Any) -> dict[str, Any]:
    return {"type": "reset", "data": data}


def step(action: Any, **data: Any) -> dict[str, Any]:
    return {"type": "step", "data": {"action": action, **data}}


def fetch(url: str, body: Any = None, token: str | None = "t") -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as err:
        return err.code, json.load(err)


def test_plays_what_the_environment_plays(serve: Serve) -> None:
    served = serve()
    env = gym.make(CORRIDOR, split="test", admissible_actions=True)
    with served.talk() as ask:
        text, info = env.reset(options={"task": 6})
        told = ask(reset(split="test", task=6, admissible_actions=True, episode_id="mine"))
        assert told["type"] == "observation"
        assert told["data"]["observation"] == {
            "text": text,
            **info,
            "terminated": False,
            "truncated": False,
        }
        assert (told["data"]["reward"], told["data"]["done"]) == (None, False)
        assert "right door" in told["data"]["metadata"]["instruction"]
        for action in ("go", "open the \ud83d\udeaa", "go", "open"):
            text, reward, terminated, truncated, info = env.step(action)
            told = ask(step(action))["data"]
            assert told["observation"]["text"] == text
            assert told["observation"]["success"] == info["success"]
            assert (told["reward"], told["done"]) == (reward, terminated or truncated)
        state = ask({"type": "state"})["data"]
        assert state == {
            "episode_id": "mine",
            "step_count": 4,
            "env": CORRIDOR,
            "task_id": "door-2/6",
            "reward": 1.0,
            "done": True,
        }
        assert ask(step("go"))["data"]["code"] == "EXECUTION_ERROR"
    assert served.settled(0)


def test_an_episode_forks_into_other_sessions(serve: Serve) -> None:
    served = serve()
    with served.talk() as first, served.talk() as second:
        first(reset(task=2))
        first(step("go"))
        fork = first(step("go", fork=True))["data"]["metadata"]["fork"]
        assert first(step("open"))["data"]["reward"] == 1.0
        again = second(reset(fork=fork))["data"]
        assert again["observation"]["text"] == "You are at door 2."
        assert second({"type": "state"})["data"]["step_count"] == 2
        assert second(step("go"))["data"]["observation"]["text"] == "You are at door 3."
        assert second(reset(fork=fork))["data"]["observation"] == again["observation"]
        refused = second(reset(fork=fork, task=3, seed=None))["data"]
        assert "leave out task" in refused["message"]
        assert second(step("open"))["data"]["reward"] == 1.0
        assert served.forks == 1
    assert served.settled(0)
    assert served.forks == 0


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("{", "INVALID_JSON"),
        ("[" * 100_000, "INVALID_JSON"),
        (b"\x00\xff", "INVALID_JSON"),
        ([1, 2], "VALIDATION_ERROR"),
        ("null", "VALIDATION_ERROR"),
        ({"type": "render"}, "UNKNOWN_TYPE"),
        ({"type": ["reset"]}, "UNKNOWN_TYPE"),
        ({"type": "reset", "data": "x"}, "VALIDATION_ERROR"),
        (reset(taks=1), "EXECUTION_ERROR"),
        (reset(task="door-9/9"), "EXECUTION_ERROR"),
        (reset(task=[1]), "EXECUTION_ERROR"),
        (reset(seed=-1), "EXECUTION_ERROR"),
        (reset(seed=10**400), "EXECUTION_ERROR"),
        (reset(env="ETO/Nothing-v0"), "EXECUTION_ERROR"),
        (reset(fork="x"), "EXECUTION_ERROR"),
        (reset(admissible_actions="yes"), "EXECUTION_ERROR"),
        (reset(admissible_actions=1), "EXECUTION_ERROR"),
        (step(5), "EXECUTION_ERROR"),
        ({"type": "step", "data": {}}, "VALIDATION_ERROR"),
        (step("go", timeout=3), "VALIDATION_ERROR"),
        (step("go", fork="yes"), "VALIDATION_ERROR"),
        (step("go", fork=1), "VALIDATION_ERROR"),
    ],
)
def test_a_malformed_message_gets_an_error_and_the_session_goes_on(
    serve: Serve, message: Any, code: str
) -> None:
    with serve().talk() as ask:
        ask(reset(task=1))
        answer = ask(message)
        assert (answer["type"], answer["data"]["code"]) == ("error", code)
        assert len(answer["data"]["message"]) < 600
        assert ask(reset(task=1))["type"] == "observation"
        assert ask(step("go"))["type"] == "observation"


def test_sessions_are_limited_and_expire_and_leave_nothing(serve: Serve) -> None:
    served = serve(max_sessions=2)
    with served.talk() as one, served.talk() as two, served.talk() as third:
        one(reset())
        two(reset())
        assert third(None)["data"]["code"] == "CAPACITY_REACHED"
    assert served.settled(0)
    served = serve(idle_timeout=0.3)
    with served.talk() as idle:
        assert idle(None)["data"] == {
            "message": "no message for 0.3 s: the session is closed",
            "code": "SESSION_ERROR",
        }
    assert served.settled(0)
    served = serve()
    for _ in range(30):
        with served.talk() as ask:
            ask(reset())
    assert served.settled(0)
    assert not served.arena._open
    assert not served.arena._forks


def test_only_who_has_the_token_comes_in(serve: Serve) -> None:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect
    from websockets.typing import Origin

    served = serve()
    for token in ("", "T", "tt"):
        with pytest.raises(InvalidStatus, match="403"), served.talk(token):
            pass
    assert fetch(f"{served.url}/list_environments", token=None)[0] == 401
    assert fetch(f"{served.url}/health", token=None) == (200, {"status": "healthy"})
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    assert fetch(f"{served.url}/mcp", call, token=None)[0] == 401
    open_to_all = serve(token=None)
    url = open_to_all.url.replace("http", "ws") + "/ws"
    with pytest.raises(InvalidStatus, match="403"):
        connect(url, origin=Origin("http://evil.example"), proxy=None)
    with open_to_all.talk() as ask:
        assert ask(reset())["type"] == "observation"


def test_tells_its_tasks(serve: Serve) -> None:
    url = serve().url
    name = fetch(f"{url}/list_environments")[1][0]
    assert name == CORRIDOR
    assert fetch(f"{url}/Corridor/splits") == (200, [{"name": "train", "type": "train"}])
    assert fetch(f"{url}/{name}/num_tasks", {"split": "test"}) == (200, {"num_tasks": 24})
    (task,) = fetch(f"{url}/{name}/task_range", {"split": "dev", "start": 3, "stop": 4})[1]["tasks"]
    assert task == {"id": "door-3/3", "type": "door-3", "split": "dev", "index": 3}
    assert fetch(f"{url}/{name}/task", {"split": "dev", "index": 3})[1] == {"task": task}
    assert len(fetch(f"{url}/{name}/tasks", {"split": "dev"})[1]["tasks"]) == 24
    for path, body in (("task", {"index": 24}), ("task", {"index": "0"}), ("tasks", {"split": 5})):
        assert fetch(f"{url}/{name}/{path}", body)[0] == 400
    for path, key in (
        ("tasks", "strat"),
        ("tasks", "index"),
        ("num_tasks", "start"),
        ("task", "spilt"),
        ("task", "stop"),
    ):
        status, told = fetch(f"{url}/{name}/{path}", {"index": 3} if path == "task" else {})
        assert status == 200
        status, told = fetch(
            f"{url}/{name}/{path}", {"index": 3, key: 3} if path == "task" else {key: 3}
        )
        assert (status, key in told["detail"]) == (400, True)
    told = fetch(f"{url}/{name}/task_range", {"strat": 3})[1]
    assert "Did you mean 'start'?" in told["detail"]
    assert fetch(f"{url}/other/num_tasks", {})[0] == 400
    assert fetch(f"{url}/{name}/tasks", [1])[0] == 422


def test_tasks_beyond_one_answer_are_told_of_and_reached(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "_TASKS", 10)
    url = f"{serve().url}/{CORRIDOR}"
    for page in ("tasks", "task_range"):
        found: list[int] = []
        count = 1
        while len(found) < count:
            told = fetch(f"{url}/{page}", {"split": "test", "start": len(found)})[1]
            assert 0 < len(told["tasks"]) <= 10
            found += [task["index"] for task in told["tasks"]]
            count = told["num_tasks"]
        assert found == list(range(24))
        few = fetch(f"{url}/{page}", {"split": "test", "start": 2, "stop": 4})[1]
        assert ([task["index"] for task in few["tasks"]], few["num_tasks"]) == ([2, 3], 24)


def test_a_whole_split_of_thousands_is_one_answer() -> None:
    tasks = TaskSet([Task(f"t{i}", "toy", "train") for i in range(12_087)], split="train")
    assert len(sessions.task_range(tasks, None, None)) == 12_087


def test_carries_json_rpc(serve: Serve) -> None:
    served = serve()
    assert fetch(f"{served.url}/mcp", {})[1]["error"]["code"] == -32600
    half = fetch(f"{served.url}/mcp", {"id": "\ud800", "method": "\udfff"})[1]
    assert (half["id"], half["error"]["code"]) == ("\ud800", -32601)
    listed = fetch(f"{served.url}/mcp", {"id": 1, "method": "tools/list"})[1]["result"]["tools"]
    assert [tool["name"] for tool in listed] == ["list_tasks", "reset", "act"]

    def call(ask: Any, name: Any, **arguments: Any) -> Any:
        params = {"name": name, "arguments": arguments}
        data = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}
        answer = ask({"type": "mcp", "data": data})["data"]
        assert answer["id"] == 7
        return answer["result"]["data"] if "result" in answer else answer["error"]["code"]

    with served.talk() as ask:
        assert call(ask, "list_tasks")["count"] == 24
        assert call(ask, "reset", task=0)["observation"]["task_id"] == "door-0/0"
        assert call(ask, "act", action="open")["reward"] == 1.0
        assert call(ask, "act", action="open") == -32000
        assert call(ask, "act", deed="open") == -32602
        assert call(ask, "fly") == -32602
        assert call(ask, ["act"]) == -32602


def test_what_cannot_be_served_is_refused() -> None:
    with pytest.raises(UnknownNameError):
        Arena(["ETO/Nothing-v0"])
    with pytest.raises(UnknownNameError, match="text environment"):
        Arena(["CartPole-v1"])
    with pytest.raises(EtoGymError):
        Arena([])


@pytest.mark.interop
def test_openenvs_own_client_and_checks(serve: Serve) -> None:
    pytest.importorskip("openenv.core")
    from openenv.cli._validation import validate_running_environment
    from openenv.core.generic_client import GenericEnvClient

    served = serve()
    report = validate_running_environment(served.url, timeout_s=20.0)
    assert report["passed"], report
    client = GenericEnvClient(base_url=served.url, headers={"Authorization": "Bearer t"}).sync()
    with client:
        result = client.reset(task=1)
        assert result.observation["task_id"] == "door-1/1"
        result = client.step({"action": "go", "fork": True})
        fork = result.metadata["fork"]
        result = client.step({"action": "open"})
        assert (result.reward, result.done) == (1.0, True)
        assert client.state()["step_count"] == 2
        assert client.reset(fork=fork).observation["text"] == "You are at door 1."
    assert served.settled(0)


@pytest.mark.interop
@pytest.mark.parametrize("env_id", ["ETO/WebShop-v0", "ETO/ScienceWorld-v0", "ETO/ALFWorld-v0"])
def test_every_benchmark_plays_over_the_wire_as_here(serve: Serve, env_id: str) -> None:
    """With OpenEnv's own client: the same texts, rewards and ends as in this process."""
    pytest.importorskip("openenv.core")
    if "ScienceWorld" in env_id:
        pytest.importorskip("scienceworld")
    from openenv.core.generic_client import GenericEnvClient

    served = serve(env_id)
    env = gym.make(env_id, split="test", admissible_actions=True)
    task = text_env(env).task_set[3].id
    text, info = env.reset(options={"task": task})
    headers = {"Authorization": "Bearer t"}
    with GenericEnvClient(base_url=served.url, headers=headers).sync() as client:
        told = client.reset(split="test", task=task, admissible_actions=True)
        assert (told.observation["text"], told.observation["task_id"]) == (text, info["task_id"])
        for turn in range(6):
            listed = info["admissible_actions"]
            assert told.observation["admissible_actions"] == listed
            action = "no such action" if turn == 2 else listed[turn % len(listed)]
            text, reward, terminated, truncated, info = env.step(action)
            told = client.step({"action": action})
            assert told.observation["text"] == text
            assert (told.reward, told.done) == (reward, terminated or truncated)
            if told.done:
                break
    env.close()
    assert served.settled(0)
