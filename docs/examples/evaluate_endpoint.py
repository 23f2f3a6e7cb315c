"""Evaluate a model behind an OpenAI-compatible server, and tell how it did.

python docs/examples/evaluate_endpoint.py http://127.0.0.1:8000/v1 --limit 50
"""

from __future__ import annotations

import argparse
import functools

import gymnasium as gym

import eto_gym
from eto_gym.agents import RolloutSpec, collect, evaluate, plan_episodes
from eto_gym.agents.evaluation.report import render
from eto_gym.agents.policies import endpoint_policy

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("url", help="base URL of the server")
parser.add_argument("--model", help="its name there; may be left out where there is only one")
parser.add_argument("--env", default="ETO/ALFWorld-v0")
parser.add_argument("--limit", type=int, default=50, help="tasks")
parser.add_argument("--out", default="runs/endpoint.jsonl", help="a second start goes on from it")


def main(argv: list[str] | None = None) -> None:
    """Play the first tasks of the test split, and print a report with intervals."""
    args = parser.parse_args(argv)
    with gym.make(args.env, split="test") as env:
        tasks = env.unwrapped.task_set[: args.limit]  # type: ignore[attr-defined]
    policy = functools.partial(endpoint_policy, args.url, args.model, temperature=0.0)
    spec = RolloutSpec(args.env, policy, env_kwargs={"split": "test"}, slots=16)
    with eto_gym.TrajectoryStore(args.out) as store:
        trajectories = collect(spec, plan_episodes(tasks.ids), store=store, progress="endpoint")
    print(render(evaluate(trajectories, n=1)))


if __name__ == "__main__":
    main()
