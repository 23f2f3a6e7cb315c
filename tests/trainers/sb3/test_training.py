"""PPO and DQN learn the corridor; what they leave behind can be played."""

from __future__ import annotations

import csv
import json
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eto_gym import DataError, EtoGymError, UnknownNameError
from eto_gym.agents.rollout.collect import collect
from eto_gym.agents.rollout.engine import plan_episodes
from eto_gym.agents.rollout.spec import RolloutSpec
from eto_gym.cli.main import main
from eto_gym.cli.train.sb3 import render
from eto_gym.files import owned
from eto_gym.trajectories import TrajectoryStore
from tests.toy import CORRIDOR

pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")

from eto_gym.agents.sb3.policy import load_sb3_policy
from eto_gym.trainers.sb3.settings import SB3Settings
from eto_gym.trainers.sb3.training import train

SMALL: dict[str, Any] = {
    "env": CORRIDOR,
    "max_candidates": 4,
    "features_dim": 64,
    "width": 32,
    "eval_episodes": 24,
}
LEARNING: dict[str, dict[str, Any]] = {
    "ppo": {
        "steps": 8000,
        "learning_rate": 1e-3,
        "algo_args": {"n_steps": 64, "batch_size": 128, "ent_coef": 0.05},
    },
    "dqn": {
        "steps": 4000,
        "learning_rate": 2e-3,
        "algo_args": {"learning_starts": 300, "target_update_interval": 200},
    },
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One learned policy of each algorithm, trained by the command."""
    folders = {}
    for algo, settings in LEARNING.items():
        out = folders[algo] = tmp_path_factory.mktemp("sb3") / algo
        words = [f"--{name}={value}" for name, value in {**SMALL, **settings}.items()]
        words = [w for w in words if not w.startswith("--algo_args")]
        args = json.dumps(settings["algo_args"])
        command = ["train", "sb3", "--algo", algo, "--out", str(out), f"--algo_args={args}"]
        assert main([*command, *words]) == 0
    return folders


@pytest.mark.parametrize("algo", LEARNING)
def test_learning_beats_random_actions(runs: dict[str, Path], algo: str) -> None:
    report = json.loads((runs[algo] / "report.json").read_text())
    random_, greedy = report["policies"]["random"], report["policies"]["greedy"]
    assert random_["episodes"] == greedy["episodes"] == 24
    assert greedy["success"]["low"] > random_["success"]["high"], "the intervals overlap"
    assert greedy["success"]["mean"] >= 0.9
    assert report["against_random"]["greedy"]["p"] < 0.01
    # Random actions are not compared with themselves.
    assert render(report).splitlines()[1].split()[::9] == ["random", "-"]
    rows = list(csv.DictReader((runs[algo] / "curve.csv").open()))
    assert [int(row["steps"]) for row in rows] == sorted({int(row["steps"]) for row in rows})
    assert int(rows[-1]["steps"]) >= LEARNING[algo]["steps"]
    success = [float(row["success"]) for row in rows if row["success"]]
    assert np.mean(success[-5:]) > np.mean(success[:5]) + 0.3
    curve = json.loads((runs[algo] / "curve.json").read_text())
    assert [row["success"] for row in curve if row["success"] is not None] == success
    assert sum(row["episodes"] for row in curve) > 500


@pytest.mark.parametrize("algo", LEARNING)
def test_a_saved_policy_plays_as_it_was_evaluated(runs: dict[str, Path], algo: str) -> None:
    before = TrajectoryStore(runs[algo] / "evaluation" / "greedy.jsonl").load()
    spec = RolloutSpec(
        CORRIDOR,
        lambda: load_sb3_policy(runs[algo]),
        env_kwargs={"admissible_actions": True, "split": "test"},
        prompt_style="none",
        slots=5,  # not the 8 of the evaluation: neighbours in a batch do not matter
    )
    again = collect(spec, plan_episodes([t.task_id for t in before]))
    assert [[s.action for s in t.steps] for t in again] == [
        [s.action for s in t.steps] for t in before
    ]
    assert {t.policy for t in again} == {f"sb3-{algo}"}


def test_sampled_play_depends_on_the_seed(runs: dict[str, Path]) -> None:
    spec = RolloutSpec(
        CORRIDOR,
        lambda: load_sb3_policy(runs["ppo"], play="sampled"),
        env_kwargs={"admissible_actions": True},
        prompt_style="none",
    )
    episodes = plan_episodes([f"door-{i % 4}/{i}" for i in range(24)], samples=3, seed=1)
    played = [collect(spec, e) for e in (episodes, episodes[::-1])]
    assert played[0] == played[1][::-1]
    actions = {(t.task_id, *(s.action for s in t.steps)) for t in played[0]}
    assert len(actions) > 24, "samples of a task never differ"
    with pytest.raises(EtoGymError, match="DQN"):
        load_sb3_policy(runs["dqn"], play="sampled")


def test_loading_never_unpickles(runs: dict[str, Path], tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "settings.json").write_bytes((runs["ppo"] / "settings.json").read_bytes())
    with zipfile.ZipFile(runs["ppo"] / "model.zip") as source:
        members = {name: source.read(name) for name in source.namelist()}

    def write(**changed: bytes) -> None:
        with zipfile.ZipFile(folder / "model.zip", "w") as target:
            for name, content in members.items():
                target.writestr(name, changed.get(name.partition(".")[0], content))

    poison = pickle.dumps(Payload())
    write(data=poison)
    load_sb3_policy(folder)
    write(policy=poison)
    with pytest.raises(DataError, match="no weights"):
        load_sb3_policy(folder)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(DataError, match="no run"):
        load_sb3_policy(tmp_path)


def test_training_repeats_and_leaves_the_global_generators(tmp_path: Path) -> None:
    import torch

    settings = SB3Settings(
        **{**SMALL, "eval_episodes": 4}, steps=256, seed=3, algo_args={"n_steps": 32}
    )
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    expected = (random.random(), np.random.random(), torch.rand(()).item())  # noqa: NPY002
    curves = []
    for name in "ab":
        random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
        train(settings, tmp_path / name)
        assert expected == (random.random(), np.random.random(), torch.rand(()).item())  # noqa: NPY002
        rows = json.loads((tmp_path / name / "curve.json").read_text())
        curves.append([{k: v for k, v in row.items() if k != "seconds"} for row in rows])
    assert curves[0] == curves[1]
    with pytest.raises(EtoGymError, match="not empty"):
        train(settings, tmp_path / "a")


def test_a_folder_is_one_run_s(tmp_path: Path) -> None:
    settings = SB3Settings(**{**SMALL, "eval_episodes": 4}, steps=256, algo_args={"n_steps": 32})
    folder = tmp_path / "run"
    folder.mkdir()
    with owned(folder), pytest.raises(EtoGymError, match="another run is writing"):
        train(settings, folder)
    assert not any(folder.iterdir())


def test_an_embedder_takes_the_place_of_hashed_features(tmp_path: Path) -> None:
    def embedder(texts: Any) -> Any:
        return [[t.count("door"), t.count("go"), t.count("1"), 1.0] for t in texts]

    settings = SB3Settings(**{**SMALL, "eval_episodes": 4}, steps=64, algo_args={"n_steps": 8})
    report = train(settings, tmp_path / "run", embedder=embedder)
    assert report["policies"]["sampled"]["episodes"] == 4
    with pytest.raises(EtoGymError, match="pass the same one"):
        load_sb3_policy(tmp_path / "run")


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="ppo"):
        SB3Settings(algo="pop")
    with pytest.raises(EtoGymError, match="steps of at least 1"):
        SB3Settings(steps=0)
    with pytest.raises(
        EtoGymError, match=r"num_envs \(--slots on the command line\) of at least 1"
    ):
        SB3Settings(num_envs=0)
    with pytest.raises(EtoGymError, match="eval_split"):
        SB3Settings(env_options={"split": "train"})


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--algo-arg", "batchsize=3"], "Did you mean 'batch_size'?"),
        (["--overflow", "some"], "'some'"),
        (["--algo-arg", "n_epochs=many"], "got 'many'"),
        (["--env-arg", "split=test"], "--train-split"),
        (["--gamma", "1.5"], "gamma"),
        (["--learning-rate", "0"], "learning_rate"),
        (["--max-candidates", "0"], "max_candidates"),
        (["--seed", "-1"], "seed"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    for more in (["--dry-run"], []):
        assert main(["train", "sb3", "--env", CORRIDOR, "--out", str(out), *words, *more]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert told in line
    assert not out.exists()


@pytest.mark.parametrize("option", ["--train-split", "--eval-split"])
def test_a_dry_run_refuses_splits_that_are_not_there(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "sb3", "--env", "webshop", option, "held-out", "--dry-run"]
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "'held-out'" in line


def test_values_that_the_algorithm_refuses_are_told_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--env", CORRIDOR, "--out", str(tmp_path / "run"), "--device", "nowhere"]
    assert main(["train", "sb3", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "SB3 refuses" in line
    assert not (tmp_path / "run").exists()
