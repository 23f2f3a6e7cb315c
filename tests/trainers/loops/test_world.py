"""What a loop refuses before it begins, and what it does where nothing can be learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from eto_gym import EtoGymError, TextEnv
from eto_gym.cli.main import main
from eto_gym.trainers.loops.eto import ETOLoop
from eto_gym.trainers.loops.world import open_world
from eto_gym.trainers.settings.loops import ETOSettings, SelfPlaySettings
from tests.toy import CORRIDOR, CorridorEnv

BARE = "tests.trainers.loops.test_world:Bare-v0"


class BareCorridorEnv(CorridorEnv):
    """A corridor with neither an expert, nor a player, nor a list of actions."""

    make_expert = TextEnv.make_expert
    _admissible_actions = TextEnv._admissible_actions


gym.register("Bare-v0", entry_point=BareCorridorEnv, max_episode_steps=8)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (ETOSettings(env=BARE, model="some/model"), "no scripted expert.*--expert-file"),
        (SelfPlaySettings(env=BARE), "--model tiny .* neither a player nor a list"),
        (ETOSettings(env="ETO/WebShop-v0", eval_split="tset"), "Did you mean 'test'"),
        (ETOSettings(env="ETO/WebShop-v0", dev_tasks=5), "split in .*got 'dev'"),
        (ETOSettings(env="ETO/WebShop-v0", env_options={"goal": "human"}), "mean 'goals'"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(settings: Any, says: str) -> None:
    with pytest.raises(EtoGymError, match=says) as caught:
        open_world(settings)
    assert "\n" not in str(caught.value)


def test_a_method_without_an_expert_needs_none(tmp_path: Path) -> None:
    world = open_world(SelfPlaySettings(env=BARE, model="some/model"))
    assert set(world.tasks) == {"train", "test"}
    assert not world.lists_actions
    given = tmp_path / "given.json"
    given.touch()
    assert open_world(ETOSettings(env=BARE, model="m", expert_file=str(given))).tasks


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--env webshp", "Did you mean 'webshop'"),
        ("--env CartPole-v1", "not a text environment"),
        ("--env scienceworld --data some/folder", "takes no data"),
        ("--env webshop --data no/such/folder", "no/such/folder"),
        ("--env alfworld --eval_split valid", "split"),
        ("--env webshop --env_options {goal:1}", "did you mean 'goals'"),
        (f"--env {CORRIDOR} --data= --expert-file no/such.json", "No such file or directory"),
        (f"--env {CORRIDOR} --data= --expert-file .", "expert file .: it is a folder"),
        (f"--env {CORRIDOR} --data= --expert-file eto:alfwrld", "Did you mean 'eto:alfworld'"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would(
    options: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.replace("{goal:1}", '{"goal": 1}') for word in options.split()]
    assert main(["train", "eto", *words, "--dry-run"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert says in said.err
    assert said.err.strip().count("\n") == 0


@pytest.mark.parametrize(("wanted", "aside"), [(4, 4), (300, 6)])
def test_dev_tasks_may_be_set_aside_of_the_train_split(
    wanted: int, aside: int, tmp_path: Path
) -> None:
    settings = ETOSettings(env=CORRIDOR, model="m", dev_split="train", dev_tasks=wanted)
    loop = ETOLoop(settings, tmp_path)
    loop.play.open()
    dev, train = loop.play.dev_ids(), loop.play.task_ids("train", 0)
    assert len(dev) == aside
    assert len(train) == 24 - aside
    assert not set(dev) & set(train)


def test_a_dry_run_names_the_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["train", "ppo", "--env", "alfworld", "--preset", "smoke", "--dry-run"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("out: ''\n")
    assert "\n# out: runs/ppo-alfworld-v0-smoke   <- the method" in printed
    (tmp_path / "settings.yaml").write_text(printed)
    assert main([*words, "--config", "settings.yaml", "--out", "mine"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("out: mine\n")
    assert "# out" not in printed
