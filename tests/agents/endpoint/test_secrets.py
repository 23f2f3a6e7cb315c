"""Keys and passwords of servers: they reach the server, and no message and no file."""

from __future__ import annotations

import base64
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from eto_gym.cli.main import main
from eto_gym.trajectories import TrajectoryStore
from tests.agents.endpoint.endpoints import talk
from tests.toy import CORRIDOR

pytest.importorskip("openai")

from eto_gym.agents.endpoint.policy import EndpointPolicy

PASSWORD = "hunt er:2"
BASIC = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
SECRETS = (PASSWORD, "hunt%20er", BASIC)


class Guarded(BaseHTTPRequestHandler):
    """Wants a user, and tells in its errors all that it was told."""

    refusing = False

    def do_GET(self) -> None:
        self.answer(404, {})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != f"Basic {BASIC}" or self.refusing:
            echo = f"{dict(self.headers)} me:{PASSWORD} {PASSWORD}"
            return self.answer(403, {"error": {"message": echo}})
        said = {"role": "assistant", "content": "Thought: x\nAction: open door 1"}
        choice = {"index": 0, "message": said, "finish_reason": "stop"}
        return self.answer(200, {"id": "1", "object": "chat.completion", "choices": [choice]})

    def answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Guarded, "refusing", False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Guarded) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://me:hunt%20er%3A2@127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_password_reaches_the_server_and_no_file(
    guarded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["rollout", CORRIDOR, "--policy", f"endpoint:{guarded}", "--policy-arg", "model=m"]
    assert main([*words, "--limit", "2", "--slots", "1"]) == 0
    (out,) = tmp_path.rglob("*.jsonl")
    assert [t.error for t in TrajectoryStore(out).load()] == [None, None]
    host = guarded.rpartition("@")[2]
    settings = json.loads(next(tmp_path.rglob("*.settings.json")).read_text())
    assert settings["policy"] == f"endpoint:http://{host}/v1"
    told = "".join(capfd.readouterr())
    for path in tmp_path.rglob("*"):
        told += str(path) + (path.read_text() if path.is_file() else "")
    assert not [secret for secret in (*SECRETS, "hunt") if secret in told]
    # With another password, it is the same run.
    again = [word.replace("hunt", "HUNT") for word in words]
    assert main([*again, "--limit", "2", "--slots", "1"]) == 0


def test_a_server_that_sends_us_on_to_another_does_not_hand_on_the_key(
    guarded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    class Other(Guarded):
        def do_POST(self) -> None:
            told.append(str(self.headers))
            self.answer(500, {})

    class Leading(Guarded):
        def do_POST(self) -> None:
            self.send_response(307)
            self.send_header("Location", f"http://127.0.0.1:{other.server_port}/v1/x")
            self.end_headers()

    monkeypatch.setenv("OPENAI_API_KEY", "sk-precious")
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), Other) as other,
        ThreadingHTTPServer(("127.0.0.1", 0), Leading) as leading,
    ):
        for server in (other, leading):
            threading.Thread(target=server.serve_forever, daemon=True).start()
        for who in ("", "me:hunt%20er%3A2@"):
            url = f"http://{who}127.0.0.1:{leading.server_port}/v1"
            policy = EndpointPolicy(url, "m", attempts=1, dialect="openai")
            policy.act([talk()])
            policy.close()
        for server in (other, leading):
            server.shutdown()
    assert not any(secret in line for line in told for secret in (*SECRETS, "sk-precious"))


def test_a_server_that_echoes_what_it_was_told_is_not_quoted(
    guarded: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Guarded, "refusing", True)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-key")
    caplog.set_level(logging.DEBUG, "eto_gym")
    said = ""
    with EndpointPolicy(guarded, "m", attempts=2, first_wait=0.01, max_wait=0.01) as policy:
        try:
            said += str(policy.act([talk()]))
        except Exception as err:
            said += str(err)
    said += caplog.text
    assert "<user and password>" in said
    assert not [secret for secret in (*SECRETS, "sk-key") if secret in said]


def test_a_secret_at_the_edge_of_what_is_quoted_is_masked_whole(
    guarded: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A part of a key is a part of a secret, wherever a long answer is cut."""
    key = "sk-" + "0123456789" * 4
    monkeypatch.setenv("OPENAI_API_KEY", key)
    caplog.set_level(logging.DEBUG, "eto_gym")
    url = guarded.replace("me:hunt%20er%3A2@", "")
    for filler in range(240, 300, 7):
        echo = "x" * filler + f" {key} is not known here, " + "y" * 200
        monkeypatch.setattr(
            Guarded,
            "do_POST",
            lambda self, echo=echo: self.answer(403, {"error": {"message": echo}}),
        )
        with EndpointPolicy(url, "m", attempts=1) as policy, pytest.raises(Exception, match="x"):
            policy.act([talk()])
    said = caplog.text
    assert key[:6] not in said


def test_the_word_that_stands_for_no_key_is_no_secret(
    guarded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(
        Guarded,
        "do_POST",
        lambda self: self.answer(403, {"error": {"message": "none of your business"}}),
    )
    url = guarded.replace("me:hunt%20er%3A2@", "")
    with (
        EndpointPolicy(url, "m", attempts=1) as policy,
        pytest.raises(Exception, match="none of your business"),
    ):
        policy.act([talk()])


@pytest.mark.parametrize(
    ("policy", "options", "told"),
    [
        ("endpoint:localhost:1", ["api_key=sk-1"], "Did you mean 'api_key_env'?"),
        ("endpoint:localhost:1", ['extra_body={"api_key": "sk-1"}'], "OPENAI_API_KEY"),
        ("endpoint:localhost:1", ["max_new_token=3"], "Did you mean 'max_new_tokens'?"),
        ("endpoint:localhost:1", ["model=m", "max_new_tokens=many"], "as a finite number"),
        ("endpoint:http://me:sk-1@[::1", [], "expected a base URL"),
        ("http://me:sk-1@localhost:1", [], "named as endpoint:http://localhost:1"),
        ("own/model", ["contxt=3"], "Did you mean 'context'?"),
        ("own/model", ["temperature=0.3"], "--temperature"),
        ("own/model", ["name=2024"], "as --policy names it"),
        ("endpoint:localhost:1", ["temperature=0.3"], "--temperature"),
    ],
)
def test_what_a_policy_does_not_take_leaves_no_file(
    policy: str, options: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for option in options for word in ("--policy-arg", option)]
    out = tmp_path / "r.jsonl"
    assert main(["rollout", CORRIDOR, "--policy", policy, *words, "--out", str(out)]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert "sk-1" not in err
    if "finite" not in told:  # which the policy says itself, when all else is set up
        assert not list(tmp_path.iterdir())
    words = ["rollout", CORRIDOR, "--policy", "random", "--limit", "1"]
    assert main([*words, "--out", str(out)]) == 0, "nothing was played with what was wrong"
