"""The stage that step-level methods share: try, value and pair the steps around demonstrations."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import eto_gym
from eto_gym.agents.rollout.spec import RolloutSpec
from eto_gym.conversation import ConversationEnv
from eto_gym.trainers.data.exact_steps import exact_step_pairs
from eto_gym.trainers.data.steps import (
    ExpertPath,
    StepReport,
    find_alternatives,
    make_step_pairs,
    plan_branches,
    plan_values,
    repeat_expert,
)
from eto_gym.trainers.loops.play_stages import ON_TIME, PlayStages, Turn
from eto_gym.trainers.loops.run_folder import Stage
from eto_gym.trainers.loops.stage_data import (
    NothingToLearn,
    is_demonstration,
    load_trajectories,
    write_pairs,
)
from eto_gym.trainers.settings.base import deciding
from eto_gym.trainers.settings.data import StepSettings
from eto_gym.trajectories import Trajectory
from eto_gym.trajectories.pairs import PreferencePair

BRANCHES = "branches.jsonl"
VALUES = "values.jsonl"


def step_pairs(
    play: PlayStages,
    name: str,
    settings: StepSettings,
    model: Stage,
    experts: Stage,
    *,
    tasks: int,
    turn: Turn = ON_TIME,
) -> Stage:
    """Make step-level pairs around the successful experts' episodes of some tasks.

    The stage's folder keeps all episodes that were played, so that an interrupted stage goes on
    where it stopped, and that other thresholds can be tried on them. Of several processes each
    repeats the experts and so has the plan; they share the episodes, and the first writes the
    pairs.

    Args:
        play: Plays, in the run folder of which the stage is.
        name: Name of the stage.
        settings: How steps are tried, valued and paired.
        model: What tries other steps, and plays on from them.
        experts: The stage of the demonstrations.
        tasks: How many demonstrated tasks; 0: all.
        turn: When this is played.

    Raises:
        NothingToLearn: The environment repeats none of the demonstrations.
    """
    s = play.settings
    seed, player = turn.seed(s.seed), turn.player(model)
    policy_maker = play.policy_maker(model, name, temperature=settings.temperature)
    spec = replace(play.spec(policy_maker, s.train_split), player=player)

    def work(folder: Path) -> Any:
        env = ConversationEnv(spec.make_env(), prompt_style=s.prompt_style, history=s.history)
        try:
            chosen = chosen_experts(experts, tasks, seed=s.seed)
            paths = _repeated(env, chosen, s.env)
            if settings.reward == "exact":
                pairs, report = _exact(play, name, spec, env, paths, settings, seed=seed)
            else:
                pairs, report = _played(play, name, spec, env, paths, settings, folder, seed=seed)
        finally:
            env.close()
        report.not_repeated = len(chosen) - len(paths)
        play.processes.first(lambda: write_pairs(folder, pairs))
        told = {"player": player} if player else {}
        return {**report.to_json(), **told}

    depends_on = {
        "env": s.env,
        "env_kwargs": s.env_kwargs(),
        "seed": s.seed,
        "tasks": tasks,
        "prompt_style": s.prompt_style,
        **s.read_so(),
        **turn.decides(),
        **play.limits,
        "version": eto_gym.__version__,
        **deciding(settings),
    }
    return play.folder.run(name, work, settings=depends_on, inputs=(model, experts))


def _repeated(env: ConversationEnv, experts: Sequence[Trajectory], name: str) -> list[ExpertPath]:
    """Return the experts' episodes that the environment repeats.

    Raises:
        NothingToLearn: It repeats none.
    """
    repeated = [repeat_expert(env, expert) for expert in experts]
    paths = [path for path in repeated if path is not None]
    if not paths:
        raise NothingToLearn(f"none of {len(experts)} experts' episodes can be repeated in {name}")
    return paths


def _exact(
    play: PlayStages,
    name: str,
    spec: RolloutSpec,
    env: ConversationEnv,
    paths: Sequence[ExpertPath],
    settings: StepSettings,
    *,
    seed: int,
) -> tuple[list[PreferencePair], StepReport]:
    """Pair steps by what the simulator says of them, which the first process asks it."""

    def ask() -> tuple[list[PreferencePair], StepReport]:
        policy = ready.make_policy()
        try:
            return exact_step_pairs(env, paths, policy, settings, seed=seed)
        finally:
            if (close := getattr(policy, "close", None)) is not None:
                close()

    with play.playing(spec) as ready:
        pairs, report = play.processes.first(ask)
        play.check_replies(report.errors, report.asked, name)
    return pairs, report


def _played(
    play: PlayStages,
    name: str,
    spec: RolloutSpec,
    env: ConversationEnv,
    paths: Sequence[ExpertPath],
    settings: StepSettings,
    folder: Path,
    *,
    seed: int,
) -> tuple[list[PreferencePair], StepReport]:
    """Pair steps by what episodes earn that go on from them, which are kept in the folder."""
    plan = plan_branches(paths, settings, seed=seed)
    branches = play.play_episodes(spec, plan, folder / BRANCHES, f"{name}: steps")
    found = find_alternatives(paths, branches, settings)
    plan = plan_values(env, found, settings, seed=seed)
    values = play.play_episodes(spec, plan, folder / VALUES, f"{name}: values")
    return make_step_pairs(paths, branches, values, settings)


def chosen_experts(experts: Stage, tasks: int, *, seed: int) -> list[Trajectory]:
    """Return one success per task, of as many tasks as asked for."""
    successes: dict[str, Trajectory] = {}
    for trajectory in load_trajectories(experts):
        if is_demonstration(trajectory):
            successes.setdefault(trajectory.task_id, trajectory)
    chosen = list(successes.values())
    random.Random(seed).shuffle(chosen)
    return chosen[: tasks or None]
