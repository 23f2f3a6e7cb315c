"""What credit costs: exact step pairs beside those of rollouts, and GiGPO's groups in a round.

    python -m eto_gym.benchmarks.methods.cost pairs --model runs/a/stages/sft-1/model --tasks 20
    python -m eto_gym.benchmarks.methods.cost gigpo --model runs/a/stages/sft-1/model --tasks 8

`pairs` makes the step pairs of some demonstrations twice, from the same replies of the agent: by
rollouts, and by exact costs to go. It counts how many of the exact ones the rollouts have too, have
the other way round, or leave out as too close, and what both took: steps in the environment,
replies of the agent, seconds of the process. `gigpo` plays a round of episodes, repeats them to
name their states, and groups their turns. Learning takes no part in the round, so that shares are
upper bounds. Without a model the random player plays, whose replies cost nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

from eto_gym.agents.policies import expert_policy, local_policy, random_policy
from eto_gym.agents.policy import Conversation, Policy, PolicyReply
from eto_gym.agents.rollout.collect import collect
from eto_gym.agents.rollout.engine import plan_episodes
from eto_gym.agents.rollout.spec import RolloutSpec
from eto_gym.conversation import ConversationEnv
from eto_gym.registration import resolve_env_id
from eto_gym.trainers.data.exact_steps import exact_step_pairs
from eto_gym.trainers.data.steps import (
    find_alternatives,
    make_step_pairs,
    plan_branches,
    plan_values,
    repeat_expert,
)
from eto_gym.trainers.methods.advantages import Play, assign, mark_states
from eto_gym.trainers.settings.data import StepSettings
from eto_gym.trajectories import Trajectory
from eto_gym.trajectories.pairs import PreferencePair

T = TypeVar("T")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a measurement."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("pairs", "gigpo"))
    parser.add_argument("--env", default="alfworld")
    parser.add_argument("--data", default="builtin", help="data of ALFWorld")
    parser.add_argument("--model", default="", help="folder of the agent's model")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--samples", type=int, default=8, help="episodes of a task, for gigpo")
    parser.add_argument("--rollouts", type=int, default=5)
    parser.add_argument("--max-steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    env_id = resolve_env_id(args.env)
    kwargs: dict[str, Any] = {"max_episode_steps": args.max_steps, "admissible_actions": True}
    if "ALFWorld" in env_id:
        kwargs["data"] = args.data
    make: Callable[[], Policy] = random_policy
    if args.model:
        make = partial(
            local_policy, args.model, max_new_tokens=args.max_new_tokens, temperature=1.0
        )
    counted = _Counted(make())
    spec = RolloutSpec(env_id, lambda: counted, env_kwargs=kwargs, prompt_style="none")
    (_pairs if args.what == "pairs" else _gigpo)(args, spec, counted)


class _Counted:
    """A policy, and how many replies it gave."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.name = policy.name
        self.replies = 0

    def act(self, conversations: Sequence[Conversation]) -> list[PolicyReply]:
        self.replies += len(conversations)
        return list(self._policy.act(conversations))

    def release(self, key: str) -> None:
        self._policy.release(key)


class _Spent(NamedTuple):
    replies: int
    seconds: float


def _spent(counted: _Counted, work: Callable[[], T]) -> tuple[T, _Spent]:
    before, start = counted.replies, time.process_time()
    found = work()
    return found, _Spent(counted.replies - before, time.process_time() - start)


def _pairs(args: argparse.Namespace, spec: RolloutSpec, counted: _Counted) -> None:
    settings = StepSettings(rollouts=args.rollouts, extent="step")
    env = ConversationEnv(spec.make_env(), prompt_style="none")
    experts = collect(
        RolloutSpec(spec.env_id, expert_policy, env_kwargs=spec.env_kwargs, prompt_style="none"),
        plan_episodes(_tasks(env, args.tasks), seed=args.seed),
    )
    found = [repeat_expert(env, expert) for expert in experts if expert.success]
    paths = [path for path in found if path is not None]

    def by_rollouts() -> tuple[list[PreferencePair], int]:
        branches = collect(spec, plan_branches(paths, settings, seed=args.seed))
        others = find_alternatives(paths, branches, settings)
        values = collect(spec, plan_values(env, others, settings, seed=args.seed))
        pairs, _ = make_step_pairs(paths, branches, values, settings)
        return pairs, _steps(branches, settings) + sum(len(t.steps) for t in values)

    (estimated, steps), mc = _spent(counted, by_rollouts)
    (exact, report), ex = _spent(
        counted, lambda: exact_step_pairs(env, paths, counted, settings, seed=args.seed)
    )
    tried = sum(len(path.states) for path in paths) + report.alternatives
    _say(f"{len(paths)} demonstrations, {report.steps} steps, {report.alternatives} alternatives")
    for name, pairs, env_steps, spent in (
        ("rollouts", estimated, steps, mc),
        ("exact", exact, tried, ex),
    ):
        _say(
            f"{name}: {len(pairs)} pairs, {env_steps:,} steps in the environment, "
            f"{spent.replies:,} replies, {spent.seconds:.2f} CPU seconds"
        )
    names = {_name(pair) for pair in estimated}
    turned = {(task, step, bad, good) for task, step, good, bad in names}
    same = sum(_name(pair) in names for pair in exact)
    other = sum(_name(pair) in turned for pair in exact)
    _say(
        f"of the exact pairs rollouts have {same}, the other way round {other}, and not "
        f"{len(exact) - same - other}"
    )
    _say(
        f"rollouts take {mc.replies / max(1, ex.replies):.1f} times the replies, "
        f"{steps / max(1, tried):.1f} times the steps and {mc.seconds / ex.seconds:.1f} times the "
        "CPU seconds"
    )
    env.close()


def _name(pair: PreferencePair) -> tuple[str, int, str, str]:
    return pair.task_id, pair.info["step"], pair.chosen[0].content, pair.rejected[0].content


def _steps(branches: Sequence[Trajectory], settings: StepSettings) -> int:
    """Count the steps after the moment that a branch leaves at."""
    return sum(len(t.steps) - t.sample // settings.rollouts for t in branches)


def _gigpo(args: argparse.Namespace, spec: RolloutSpec, counted: _Counted) -> None:
    env = ConversationEnv(spec.make_env(), prompt_style="none")
    plan = plan_episodes(_tasks(env, args.tasks), samples=args.samples, seed=args.seed)
    played, play = _spent(counted, lambda: collect(spec, plan))
    marks, name = _spent(counted, lambda: [mark_states(env, t, "gigpo") for t in played])
    plays = [
        Play(t.task_id, t.reward, tuple(step.reward for step in t.steps), mark)
        for t, mark in zip(played, marks, strict=True)
    ]
    _, group = _spent(counted, lambda: assign(plays, "episode"))
    credit, both = _spent(counted, lambda: assign(plays, "gigpo"))
    turns = sum(len(t.steps) for t in played)
    _say(
        f"{len(played)} episodes, {turns} turns, {credit.known:.0%} of them in a state that "
        f"another was in; played in {play.seconds:.2f} CPU seconds"
    )
    _say(
        f"naming the states: {name.seconds:.3f} s, {name.seconds / play.seconds:.2%} of the play; "
        f"grouping: {both.seconds - group.seconds:.4f} s, "
        f"{(both.seconds - group.seconds) / play.seconds:.3%}"
    )
    env.close()


def _tasks(env: ConversationEnv, count: int) -> list[str]:
    tasks = env.unwrapped.task_set.shuffle(0)  # type: ignore[attr-defined]
    return list(tasks.ids[:count])


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
