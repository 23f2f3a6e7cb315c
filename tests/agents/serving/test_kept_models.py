"""Servers of transformers that run, and take one model after the other."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from eto_gym.agents.policy import Conversation
from eto_gym.agents.serving.kept_models import KeptModels, swap_model
from eto_gym.agents.serving.servers import ModelServers
from eto_gym.errors import EtoGymError
from eto_gym.prompt import Message
from eto_gym.testing.fake_endpoint import FakeEndpoint
from tests.agents.serving.test_serving import folders  # noqa: F401

ASKED = [Conversation("a", (Message("user", "You are in the middle of a room."),))]


def test_one_server_holds_model_after_model(folders: tuple[Path, Path]) -> None:  # noqa: F811
    for package in ("torch", "peft", "openai", "fastapi", "uvicorn"):
        pytest.importorskip(package)
    from eto_gym.agents.endpoint import EndpointPolicy
    from eto_gym.agents.policies import local_policy

    base, adapter = map(str, folders)
    limits: dict[str, Any] = {"max_new_tokens": 12}
    kept = KeptModels(lambda: ModelServers(None, arguments=["--device", "cpu"]), 120.0)
    with contextlib.closing(kept):
        held = []
        for model in (base, base, adapter, base):
            held.append(kept.hold(model, None))
            with EndpointPolicy(held[-1].urls, held[-1].name, **limits) as behind:
                (reply,) = behind.act(ASKED)
            (same,) = local_policy(model, device="cpu", **limits).act(ASKED)
            assert reply.text == same.text
        assert len({tuple(urls) for urls, _ in held}) == 1, "one start"
        assert held[0] == held[1], "what they hold is not loaded again"
        names = [Path(name) for _, name in held]
        assert [name.exists() for name in names[1:]] == [False, False, True]
        assert "@" not in str(names[-1].relative_to(names[-1].parent.parent))
    assert not names[-1].exists()


class Loading(FakeEndpoint):
    """Answers to every request with one text alone."""

    def completion(self, body: dict[str, Any]) -> bytes:
        return self.answer(body).encode()


@pytest.mark.parametrize(
    ("events", "error"),
    [
        (
            'data: {"status": "loading"}\n\ndata: {"status": "error", "message": "no room"}\n\n',
            "has not loaded .*: no room. Without keep_servers",
        ),
        ("Welcome", "does not say that .* is loaded: 'Welcome'"),
        ("", "does not say that"),
    ],
)
def test_a_model_that_is_not_loaded_is_told(events: str, error: str, tmp_path: Path) -> None:
    with Loading(answer=lambda _: events) as fake, pytest.raises(EtoGymError, match=error):
        swap_model(fake.url, str(tmp_path), timeout=60.0)


def test_a_server_that_takes_no_models_is_told(tmp_path: Path) -> None:
    with (
        FakeEndpoint(answer=lambda _: "", choose=lambda _: "no model") as fake,
        pytest.raises(EtoGymError, match=r"/reset answers 404: .*Without keep_servers"),
    ):
        swap_model(fake.url, str(tmp_path), timeout=60.0)
    with pytest.raises(EtoGymError, match="no answer from"):
        swap_model(fake.url, str(tmp_path), timeout=60.0)


def test_only_transformers_starts_without_a_model() -> None:
    with pytest.raises(EtoGymError, match="expected a model"):
        ModelServers(None, command="x {model} {host} {port}")
    with pytest.raises(EtoGymError, match="expected a model"):
        ModelServers(None, chat_template="x")
