"""Measures `state_key`, `cost_to_go` and `milestones`, and ALFWorld's counts against a search.

    python -m eto_gym.benchmarks.methods.credit --states 1000
    python -m eto_gym.benchmarks.methods.credit --env ETO/WebShop-v0 --states 300 --no-search

States are those of play in which the expert and chance take turns. The search goes through all
plays in order of length; what changes nothing, closing doors, and taking things that the goal does
not name are left out, since no shortest play does them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator

import gymnasium as gym
import numpy as np

import eto_gym
from eto_gym.env import TextEnv, text_env
from eto_gym.envs.alfworld.engine.distance import read_goal
from eto_gym.envs.alfworld.engine.engine import Playthrough

QUIET = ("look", "inventory", "examine", "examine object", "help", "close")


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Formatter)
    parser.add_argument("--env", default="ETO/ALFWorld-v0")
    parser.add_argument("--data", default="builtin:small", help="data of ALFWorld")
    parser.add_argument("--states", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--search-limit", type=int, default=100_000, help="states of one search")
    parser.add_argument("--no-search", action="store_true", help="measure the time alone")
    args = parser.parse_args(arguments)
    kwargs = {"data": args.data} if "ALFWorld" in args.env else {}
    env = gym.make(args.env, admissible_actions=True, **kwargs)
    times: dict[str, list[float]] = {name: [] for name in ("state_key", "cost_to_go", "milestones")}
    unknown = wrong = unfinished = searched = 0
    for inner in _states(env, args.states, args.seed):
        for name, found in times.items():
            start = time.perf_counter()
            value = getattr(inner, name)()
            found.append(time.perf_counter() - start)
            if name == "cost_to_go":
                steps = value
        unknown += steps is None
        if not args.no_search and "ALFWorld" in args.env:
            least = search(inner._backend.episode, args.search_limit)  # type: ignore[attr-defined]
            unfinished += least == -1
            searched += least != -1
            wrong += least not in (-1, steps)
    env.close()
    for name, found in times.items():
        centre, high = statistics.median(found), float(np.quantile(found, 0.99))
        _say(f"{name}: median {1e6 * centre:.0f} us, 99% below {1e6 * high:.0f} us")
    _say(f"{len(times['cost_to_go'])} states, {unknown} of unknown cost to go")
    if searched or unfinished:
        _say(f"searched: {searched} states, {wrong} with another count; {unfinished} not finished")
    return int(wrong > 0)


def search(start: Playthrough, limit: int) -> int | None:
    """Return the least steps to the goal by trying all plays; -1: more than `limit` states."""
    goal = read_goal(start.game)
    things = set(range(len(start.game.objects))) if goal is None else goal.things
    level, known, depth = [start], {_raw(start)}, 0
    while level:
        after = []
        for episode in level:
            if episode.won:
                return depth
            for command, (kind, first, _) in episode.commands().items():
                if kind in QUIET or (kind == "take" and first not in things):
                    continue
                other = episode.copy()
                other.step(command)
                if (name := _raw(other)) not in known:
                    known.add(name)
                    after.append(other)
        if len(known) > limit:
            return -1
        level, depth = after, depth + 1
    return None


def _raw(episode: Playthrough) -> object:
    sets = (episode.opened, episode.clean, episode.hot, episode.cool, episode.toggled)
    inside = tuple(tuple(sorted(r)) for r in episode.inside)
    return (episode.location, episode.held, inside, *map(frozenset, sets))


def _states(env: gym.Env[str, str], count: int, seed: int) -> Iterator[TextEnv]:
    """Bring the environment to one state after the other, four of each episode."""
    rng = np.random.default_rng(seed)
    inner = text_env(env)
    for number in range(count):
        if number % 4 == 0:
            observation, info = env.reset(seed=seed + number)
            expert, ended = inner.make_expert(), False
        for _ in range(int(rng.integers(1, 5))):
            reply = expert.act(observation, info) if rng.random() < 0.6 else None
            actions = info["admissible_actions"]
            action = str(rng.choice(actions)) if reply is None and actions else ""
            if not ended:
                observation, _, terminated, truncated, info = env.step(
                    action if reply is None else reply.action
                )
                ended = terminated or truncated
        yield inner


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


class _Formatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    pass


if __name__ == "__main__":
    eto_gym.registered_ids()
    raise SystemExit(main())
