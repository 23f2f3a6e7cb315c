"""Naming environments, and what "data" means for each."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import eto_gym
from eto_gym import EtoGymError
from eto_gym.cli.main import main
from eto_gym.registration import (
    data_kwargs,
    env_class,
    make_text_env,
    plugin_ids,
    resolve_env_id,
)
from tests.toy import CORRIDOR, CorridorEnv

DATA = {
    "ETO/ALFWorld-v0": {"data": "builtin"},
    "ETO/WebShop-v0": {"catalog": "builtin"},
    "ETO/ScienceWorld-v0": {},
}


@pytest.mark.parametrize("env_id", eto_gym.registered_ids())
def test_every_environment_says_how_it_takes_data(env_id: str) -> None:
    assert data_kwargs(env_id, "builtin") == DATA[env_id]
    assert data_kwargs(env_id, "") == {}
    gym.make(env_id, **data_kwargs(env_id, "builtin")).close()
    short = env_id.removeprefix("ETO/").removesuffix("-v0")
    assert resolve_env_id(short) == resolve_env_id(short.lower()) == env_id


def test_an_environment_of_another_package_needs_no_data() -> None:
    assert env_class(CORRIDOR) is CorridorEnv
    assert data_kwargs(CORRIDOR, "builtin") == {}
    with pytest.raises(EtoGymError, match="takes no data"):
        data_kwargs(CORRIDOR, "some/folder")


@pytest.mark.parametrize("env_id", ["CartPole-v1", "no_such_module:X-v0", "NoSuch-v0"])
def test_what_is_no_text_environment_is_refused(env_id: str) -> None:
    with pytest.raises(EtoGymError, match=env_id.rpartition(":")[2].removesuffix("-v0")):
        data_kwargs(env_id, "builtin")


@pytest.mark.usefixtures("warm_engine")
@pytest.mark.parametrize("env_id", [*DATA, CORRIDOR])
def test_every_environment_has_a_player(env_id: str) -> None:
    """Its play depends on its seed alone, and every action is one that can be taken."""
    env: Any = gym.make(env_id, admissible_actions=True)

    def play(seed: int) -> list[str]:
        observation, info = env.reset(seed=0)
        player, actions = env.unwrapped.make_player(seed), []
        for _ in range(4):
            reply = player.act(observation, info)
            assert reply is not None
            assert "<query>" not in reply.action
            actions.append(reply.action)
            observation, _, terminated, truncated, info = env.step(reply.action)
            if terminated or truncated:
                break
        return actions

    assert play(1) == play(1)
    assert len({tuple(play(seed)) for seed in range(1, 6)}) > 1
    env.close()


@pytest.mark.parametrize(
    ("env_id", "arguments", "says"),
    [
        ("ETO/WebShop-v0", {"catalogue": "builtin"}, "did you mean 'catalog'"),
        ("ETO/ALFWorld-v0", {"split": "trian"}, "Did you mean 'train'"),
        ("ETO/ScienceWorld-v0", {"data": "builtin"}, "takes no argument 'data'"),
        ("ETO/ALFWorld-v0", {"data": "/no/such/folder"}, "/no/such/folder"),
        ("ETO/WebShop-v0", {"catalog": "/no/such/folder"}, "/no/such/folder"),
        ("ETO/WebShop-v0", {"max_episode_steps": -3}, "max_episode_steps"),
        (CORRIDOR, {"doors": 4}, "takes no argument 'doors'"),
    ],
)
def test_an_argument_that_does_not_fit_is_one_line(
    env_id: str, arguments: dict[str, Any], says: str
) -> None:
    with pytest.raises(EtoGymError, match=says) as caught:
        make_text_env(env_id, **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "command",
    [
        ["rollout", "CartPole-v1", "--policy", "random"],
        ["rollout", "webshop", "--policy", "random", "--env-arg", "catalogue=builtin"],
        ["bench", "CartPole-v1"],
        ["play", "CartPole-v1"],
        ["expert", "CartPole-v1"],
    ],
)
def test_the_commands_say_so_too(
    command: list[str], tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith(f"eto-gym {command[0]}: ")
    assert "\n" not in said


# --- environments of another package -------------------------------------------------------------


@pytest.fixture
def maze(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed package that offers `Maze/Corridor-v3` by an entry point."""
    site = tmp_path / "site"
    info = site / "maze_package-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: maze-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[eto_gym.environments]\nMaze/Corridor-v3 = maze_package\n"
    )
    (site / "maze_package.py").write_text(
        "import gymnasium as gym\n"
        "from tests.toy import CorridorEnv\n"
        "gym.register('Maze/Corridor-v3', entry_point=CorridorEnv, max_episode_steps=8)\n"
    )
    monkeypatch.syspath_prepend(str(site))
    plugin_ids.cache_clear()
    yield site
    plugin_ids.cache_clear()
    gym.registry.pop("Maze/Corridor-v3", None)
    sys.modules.pop("maze_package", None)


@pytest.mark.parametrize("name", ["Maze/Corridor-v3", "corridor", "Corridor"])
def test_an_installed_package_offers_its_environment_by_its_plain_id(maze: Path, name: str) -> None:
    assert resolve_env_id(name) == "maze_package:Maze/Corridor-v3"
    assert "maze_package" not in sys.modules, "nothing is imported before it is used"
    env = make_text_env(resolve_env_id(name), split="dev")
    assert env.unwrapped.__class__ is CorridorEnv
    assert env.spec is not None
    assert env.spec.max_episode_steps == 8
    env.close()


def test_a_misspelt_id_of_an_installed_package_is_guessed(maze: Path) -> None:
    with pytest.raises(EtoGymError, match="Did you mean 'Maze/Corridor-v3'"):
        resolve_env_id("Maze/Coridor-v3")


def test_the_command_line_plays_it_in_processes_of_its_own(maze: Path, tmp_path: Path) -> None:
    words = "rollout corridor --policy expert --limit 4 --workers 2 --out e.jsonl"
    command = f"import sys; from eto_gym.cli.main import main; sys.exit(main({words.split()!r}))"
    subprocess.run(
        [sys.executable, "-c", command],
        cwd=tmp_path,
        check=True,
        env={"PYTHONPATH": f"{maze}:{Path(__file__).parents[1]}", "PATH": "/usr/bin:/bin"},
    )
    assert len((tmp_path / "e.jsonl").read_text().splitlines()) == 4
