"""Training MaskablePPO and DQN on a text environment, and what came of it."""

from __future__ import annotations

import functools
import inspect
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from eto_gym.agents.evaluation.measures import summarise
from eto_gym.agents.evaluation.statistics import compare
from eto_gym.agents.policies import random_policy
from eto_gym.agents.rollout.collect import RolloutSpec, collect
from eto_gym.agents.rollout.engine import plan_episodes
from eto_gym.agents.sb3.policy import (
    MODEL_FILE,
    SETTINGS_FILE,
    Play,
    load_sb3_policy,
    make_features,
)
from eto_gym.env import text_env
from eto_gym.errors import EtoGymError, require, unknown_name
from eto_gym.files import owned, replacing, write_json
from eto_gym.trainers.sb3.settings import SB3Settings
from eto_gym.trajectories import Trajectory, TrajectoryStore

if TYPE_CHECKING:
    from eto_gym.trainers.sb3.curve import LearningCurve

logger = logging.getLogger(__name__)

Embedder = Callable[[Sequence[str]], Any]

CURVE_ROWS = 50
"""Rows of a learning curve."""

_PPO = {"n_steps": 128, "batch_size": 256, "n_epochs": 4, "ent_coef": 0.02}
_DQN = {
    "buffer_size": 20_000,
    "learning_starts": 1000,
    "batch_size": 64,
    "train_freq": 1,
    "target_update_interval": 1000,
    "exploration_fraction": 0.4,
    "exploration_final_eps": 0.05,
}


def train(
    settings: SB3Settings, out: str | Path, *, embedder: Embedder | None = None
) -> dict[str, Any]:
    """Train a policy, evaluate it, and return the report.

    The run folder holds `settings.json`, `curve.csv` (a row per stretch of steps as they happen),
    `curve.json`, `curve.png` (where matplotlib is installed), `model.zip` (SB3's format), the
    evaluation's trajectories in `evaluation/`, and `report.json`, which is written last.

    SB3 draws from the global generators; their state is put back afterwards.

    Args:
        settings: What to do.
        out: Run folder; must be new or empty.
        embedder: Replaces the hashed text features; see `EmbeddedText`.

    Raises:
        EtoGymError: The folder is not empty, another run has it, or the settings do not fit the
            environment.
        MissingDependencyError: Stable-Baselines3 or sb3-contrib is not installed.
    """
    check_run(settings)
    from eto_gym.trainers.sb3.curve import plot_curve

    folder = Path(out)
    _check_empty(folder)
    with ExitStack() as stack:
        with _global_generators_kept():
            model = _make_model(settings, embedder)
            try:
                # From here on there is a run; settings that do not work leave no folder.
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(owned(folder))
                _check_empty(folder)  # another run may have come first
                curve = _learn(model, settings, folder, embedder=embedder is not None)
            finally:
                model.get_env().close()
            _save_model(model, folder / MODEL_FILE)
        write_json(folder / "curve.json", curve.rows)
        report = _evaluate(settings, folder, embedder)
        chance = report["policies"]["random"]["success"]["mean"]
        title = f"{settings.algo.upper()} on {settings.env}"
        if not plot_curve(curve.rows, folder / "curve.png", title=title, random_success=chance):
            logger.info("matplotlib is not installed: no curve.png; curve.csv has the figures")
        write_json(folder / "report.json", report)
    return report


def _learn(model: Any, settings: SB3Settings, folder: Path, *, embedder: bool) -> LearningCurve:
    """Write down what the run is, and train; return the curve."""
    from eto_gym.trainers.sb3.curve import LearningCurve

    write_json(folder / SETTINGS_FILE, {**asdict(settings), "embedder": embedder})
    curve = LearningCurve(folder / "curve.csv", every=max(1, settings.steps // CURVE_ROWS))
    model.learn(settings.steps, callback=curve)
    return curve


def _check_empty(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise EtoGymError(f"{folder} is not empty: name a new folder for a new run")


def check_run(settings: SB3Settings) -> None:
    """Refuse at once what a run would refuse later.

    Raises:
        MissingDependencyError: Stable-Baselines3 or sb3-contrib is not installed.
        UnknownNameError: There is no such split, or SB3's class has no such argument.
        EtoGymError: The environment cannot be made.
    """
    for package in ("stable_baselines3", "sb3_contrib"):
        require(package, feature="eto-gym train sb3", extra="sb3")
    kind, _ = _algorithm(settings)
    known = dict(inspect.signature(kind).parameters)
    known = {name: item for name, item in known.items() if name not in ("policy", "env")}
    for name, value in settings.algo_args.items():
        if name not in known:
            raise unknown_name(f"argument of {kind.__name__}", name, known)
        usual = known[name].default
        if isinstance(usual, int | float) and not isinstance(value, int | float):
            raise EtoGymError(
                f"expected a value like {usual} for {name} of {kind.__name__}, got {value!r:.80}"
            )
    for split in dict.fromkeys((settings.split, settings.eval_split)):
        _make_env(settings, split).close()


def _algorithm(settings: SB3Settings) -> tuple[Callable[..., Any], Any]:
    """Return the class of the algorithm, and that of its network."""
    from sb3_contrib import MaskablePPO

    from eto_gym.agents.sb3.networks import (
        CandidateDQNPolicy,
        MaskableCandidatePolicy,
        MaskedDQN,
    )

    if settings.algo == "ppo":
        return MaskablePPO, MaskableCandidatePolicy
    return MaskedDQN, CandidateDQNPolicy


def _make_env(settings: SB3Settings, split: str) -> gym.Env[str, str]:
    kwargs = {**settings.env_options, "split": split, "admissible_actions": True}
    env: gym.Env[str, str] = gym.make(settings.env, **kwargs)
    return env


def _make_model(settings: SB3Settings, embedder: Embedder | None) -> Any:
    from eto_gym.trainers.sb3.vec_env import CandidatesVecEnv

    env = CandidatesVecEnv(
        [functools.partial(_make_env, settings, settings.split)] * settings.num_envs,
        workers=settings.env_workers,
        features=make_features(settings.features_dim, embedder, wanted=embedder is not None),
        max_candidates=settings.max_candidates,
        overflow=settings.overflow,
        history=settings.history,
    )
    common = {
        "learning_rate": settings.learning_rate,
        "gamma": settings.gamma,
        "seed": settings.seed,
        "device": settings.device,
        "policy_kwargs": {"features_extractor_kwargs": {"width": settings.width}},
    }
    kind, policy = _algorithm(settings)
    chosen = _PPO if settings.algo == "ppo" else _DQN
    try:
        return kind(policy, env, **{**common, **chosen, **settings.algo_args})
    except (TypeError, ValueError, AssertionError, RuntimeError) as err:
        env.close()
        raise EtoGymError(f"SB3 refuses the settings: {err}") from err


def _evaluate(settings: SB3Settings, folder: Path, embedder: Embedder | None) -> dict[str, Any]:
    """Play the held-out tasks with the trained policy and at random, and compare the two."""
    env = _make_env(settings, settings.eval_split)
    tasks = text_env(env).task_set.shuffle(settings.seed)[: settings.eval_episodes].ids
    env.close()
    episodes = plan_episodes(tasks, seed=settings.seed)
    ways: tuple[Play, ...] = ("greedy", "sampled") if settings.algo == "ppo" else ("greedy",)
    makers: dict[str, Callable[[], Any]] = {"random": random_policy}
    for way in ways:
        makers[way] = functools.partial(load_sb3_policy, folder, play=way, embedder=embedder)
    played: dict[str, list[Trajectory]] = {}
    for name, make_policy in makers.items():
        spec = RolloutSpec(
            settings.env,
            make_policy,
            env_kwargs={
                **settings.env_options,
                "split": settings.eval_split,
                "admissible_actions": True,
            },
            prompt_style="none",
            slots=settings.num_envs,
        )
        store = TrajectoryStore(folder / "evaluation" / f"{name}.jsonl")
        played[name] = collect(spec, episodes, store=store)
    return {
        "settings": asdict(settings),
        "eval_tasks": len(tasks),
        "policies": {name: _known(summarise(found)) for name, found in played.items()},
        "candidates_dropped": {
            name: sum(t.usage.get("candidates_dropped", 0) for t in found)
            for name, found in played.items()
        },
        "against_random": {name: asdict(compare(played["random"], played[name])) for name in ways},
    }


def _known(figures: dict[str, Any]) -> dict[str, Any]:
    """Leave out what does not apply, such as the tokens of a policy that generates none."""
    return {
        name: value
        for name, value in figures.items()
        if not (isinstance(value, float) and np.isnan(value))
    }


def _save_model(model: Any, path: Path) -> None:
    with replacing(path) as part, part.open("wb") as file:
        model.save(file)


@contextmanager
def _global_generators_kept() -> Iterator[None]:
    """Put the global generators back as they were: SB3 seeds them and draws from them."""
    import torch

    python, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numbers)  # noqa: NPY002
