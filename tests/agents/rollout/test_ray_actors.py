"""What actors tell and are told, without a cluster."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

import eto_gym
from eto_gym.agents.rollout.engine import Episode, plan_episodes
from eto_gym.agents.rollout.ray_actors import Origin, PolicyActor, WorkerActor
from eto_gym.agents.rollout.spec import RolloutSpec
from tests.agents.rollout.coin import TASKS, CoinPolicy
from tests.toy import CORRIDOR


def relative() -> CoinPolicy:
    """Read a file in the working folder."""
    return CoinPolicy(fail_on=Path("task").read_text())


def origin(folder: Path, version: str = eto_gym.__version__) -> Origin:
    return Origin(str(folder), version)


def first_words(spec: RolloutSpec, told: Origin) -> list[object]:
    return list(WorkerActor(spec, None, told).exchange([]))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_relative_paths_start_where_the_command_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (tmp_path / "task").write_text("none")
    monkeypatch.chdir(here)
    spec = RolloutSpec(CORRIDOR, relative, prompt_style="none")
    monkeypatch.setenv("RANK", "3")
    (missing,) = first_words(spec, origin(tmp_path / "not there"))
    assert isinstance(missing, str)
    assert missing.startswith("FileNotFoundError")
    assert missing.endswith(f"(on {socket.gethostname()}, in {here})")
    assert first_words(spec, origin(tmp_path)) == [16]  # it asks for episodes
    assert PolicyActor(relative, origin(tmp_path)).name() == "coin"
    monkeypatch.chdir(here)
    actor = PolicyActor(relative, origin(here))
    with pytest.raises(eto_gym.EtoGymError, match=r"FileNotFoundError.*\(on .*, in .*here\)"):
        actor.name()


def test_another_version_is_refused_by_the_name_of_its_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = RolloutSpec(CORRIDOR, CoinPolicy, prompt_style="none")
    worker = WorkerActor(spec, None, origin(tmp_path, "0.0.1"))
    (told,) = worker.exchange([])
    assert str(told).startswith("expected eto-gym 0.0.1 on every machine, got ")
    assert socket.gethostname() in str(told)
    assert worker.exchange([]) == [], "nothing follows"
    with pytest.raises(eto_gym.EtoGymError, match=r"expected eto-gym 0\.0\.1"):
        PolicyActor(CoinPolicy, origin(tmp_path, "0.0.1")).name()


def test_a_worker_asks_plays_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = RolloutSpec(CORRIDOR, CoinPolicy, prompt_style="none", slots=4)
    episodes = plan_episodes(TASKS[:6], seed=1)
    worker = WorkerActor(spec, None, origin(tmp_path))
    said = worker.exchange([])
    handed: list[Sequence[Episode]] = [episodes, []]
    while words := worker.exchange(handed):
        handed = []
        said += words
    keys = [message.key for message in said if not isinstance(message, int | str)]
    assert sorted(keys) == sorted(episode.key for episode in episodes)
