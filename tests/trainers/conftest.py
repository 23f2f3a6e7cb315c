from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eto_gym.prompt import Message
from eto_gym.trajectories import Step, Trajectory

os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOMS = ("kitchen", "hall", "attic", "cellar", "garden", "study")
THINGS = ("lamp", "mug", "book", "key", "coin", "hat")


def play(
    number: int,
    *,
    good: bool = True,
    rounds: int = 3,
    reward: float | None = None,
    sample: int = 0,
    policy: str = "expert",
    error: bool = False,
) -> Trajectory:
    """One small conversation: fetch a thing; a good agent names it, a bad one wanders."""
    room, thing = ROOMS[number % 6], THINGS[number // 6 % 6]
    messages = [
        Message("user", "You live in a house. Reply with an action."),
        Message("assistant", "OK."),
        Message("user", f"You are in the {room}. Fetch the {thing}."),
    ]
    steps = []
    for index in range(rounds):
        action = f"take {thing}" if good else f"wander {index} in {room}"
        messages.append(Message("assistant", f"Action: {action}", train=True))
        steps.append(Step(action, f"Nothing happens in the {room}.", 0.0))
        if index + 1 < rounds:
            messages.append(Message("user", steps[-1].observation))
    if reward is None:
        reward = float(good)
    return Trajectory(
        task_id=f"task-{number}",
        task_type="fetch",
        messages=tuple(messages),
        steps=tuple(steps),
        outcome="error" if error else "terminated",
        error="policy" if error else None,
        reward=reward,
        success=reward >= 1,
        policy=policy,
        sample=sample,
    )


@pytest.fixture
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what a killed run leaves in the system's temporary folder among the test's files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture(scope="session", autouse=True)
def own_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's cached scores out of the tests, and the tests' out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ETO_GYM_DATA", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="session")
def make_play() -> Callable[..., Trajectory]:
    return play


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny model on disk."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    from eto_gym.agents.models.tiny import build_model, save_tiny, train_tokenizer

    texts = [
        message.content
        for number in range(36)
        for good in (True, False)
        for message in play(number, good=good).messages
    ]
    tokenizer = train_tokenizer(texts, vocab_size=400)
    model = build_model(tokenizer, hidden_size=64, layers=2, heads=4, mlp_size=128, context=512)
    return save_tiny(model, tokenizer, tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def locksmith(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that speaks the language of the locks, and mistakes the keys.

    Trained on play that prefers one wrong key for each colour, it opens both locks in about one
    episode of eleven, and in none when it is greedy.
    """
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    from eto_gym.agents.models.tiny import build_model, save_tiny, train_tokenizer
    from eto_gym.agents.policies import player_policy
    from eto_gym.trainers import SFTSettings, Watch, run_sft
    from tests.trainers.locks import MUON, play_locks

    folder = tmp_path_factory.mktemp("locksmith")
    played = play_locks(player_policy, samples=2)
    texts = [message.content for trajectory in played for message in trajectory.messages]
    tokenizer = train_tokenizer(texts, vocab_size=360)
    model = build_model(
        tokenizer, hidden_size=48, layers=2, heads=4, kv_heads=2, mlp_size=96, context=256
    )
    run_sft(
        SFTSettings(**{**MUON, "batch_size": 32, "micro_batch_size": 32}, epochs=7),
        played,
        model=save_tiny(model, tokenizer, folder / "raw"),
        output=folder / "model",
        watch=Watch(progress=False),
    )
    return folder / "model"
