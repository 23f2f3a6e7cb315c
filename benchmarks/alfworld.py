"""Measures ALFWorld: steps/s, load and reset times, and memory, beside the official engine.

    python -m eto_gym.benchmarks.alfworld
    python -m eto_gym.benchmarks.alfworld --data FOLDER --split valid_seen --official

Play is random over the admissible actions, which every step lists. The play of each game is timed
as a whole, and the best of `--repeats` times counts, since other work on the machine can only make
one longer.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import random
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import gymnasium as gym

import eto_gym
from eto_gym.envs.alfworld.engine.engine import Playthrough, parse_game
from eto_gym.envs.alfworld.games import open_games

T = TypeVar("T")
Clock: TypeAlias = Callable[[], float]

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
ENV_ID = "ETO/ALFWorld-v0"


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", default="builtin", help="builtin, or a folder of games")
    parser.add_argument("--split", default="train")
    parser.add_argument("--games", type=int, default=50, help="games to play (default: 50)")
    parser.add_argument("--steps", type=int, default=40, help="steps per game (default: 40)")
    parser.add_argument("--repeats", type=int, default=5, help="runs to take the best of")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--clock",
        choices=sorted(CLOCKS),
        default="wall",
        help="wall time (default), or the process's CPU time where other work crowds the machine",
    )
    parser.add_argument("--official", action="store_true", help="also the official engine")
    parser.add_argument("--official-games", type=int, default=3, help="games for that one")
    args = parser.parse_args()

    print(f"# {' '.join(['python -m eto_gym.benchmarks.alfworld', *sys.argv[1:]])}")
    print(f"# eto-gym {eto_gym.__version__}, Python {platform.python_version()}, {_processor()}")
    rows = [_measure(args, backend="engine", games=args.games, repeats=args.repeats)]
    rows[0] |= _measure_parsing(args)
    if args.official:
        if importlib.util.find_spec("textworld") is None:
            print('# the official engine is not installed: pip install "eto-gym[alfworld]"')
        else:
            rows.append(_measure(args, backend="textworld", games=args.official_games, repeats=1))
    _print_table(rows)


def _measure(args: argparse.Namespace, *, backend: str, games: int, repeats: int) -> dict[str, str]:
    """Play through `gym.make`, as a user would."""
    env = gym.make(
        ENV_ID,
        data=args.data,
        split=args.split,
        backend=backend,
        admissible_actions=True,
        max_episode_steps=args.steps,
    )
    count = min(games, len(env.unwrapped.task_set))  # type: ignore[attr-defined]
    clock = CLOCKS[args.clock]
    first, again, play = [], [], []
    steps = 0
    for task in range(count):
        first.append(_timed(clock, _reset, env, task)[0])
        resets, plays = [], []
        for _ in range(repeats):
            elapsed, actions = _timed(clock, _reset, env, task)
            resets.append(elapsed)
            elapsed, taken = _timed(clock, _play, env, random.Random(args.seed), actions)
            plays.append(elapsed)
        again.append(min(resets))
        play.append(min(plays))
        steps += taken
    version = env.unwrapped.card()["backend_version"]  # type: ignore[attr-defined]
    env.close()
    return {
        "engine": f"{backend} ({version})",
        "games": str(count),
        "steps/s": f"{steps / sum(play):,.0f}",
        "first reset ms": f"{statistics.median(first) * 1e3:.2f}",
        "reset ms": f"{statistics.median(again) * 1e3:.3f}",
    }


def _play(env: gym.Env[Any, Any], rng: random.Random, actions: list[str]) -> int:
    steps, ended = 0, False
    while not ended:
        _, _, terminated, truncated, info = env.step(rng.choice(actions))
        actions = info["admissible_actions"]
        ended = terminated or truncated
        steps += 1
    return steps


def _reset(env: gym.Env[Any, Any], task: int) -> list[str]:
    actions: list[str] = env.reset(options={"task": task})[1]["admissible_actions"]
    return actions


def _measure_parsing(args: argparse.Namespace) -> dict[str, str]:
    """Time the parsing of game files, and weigh the parsed games and a running episode."""
    clock = CLOCKS[args.clock]
    source = open_games(args.data, args.split, "auto")
    texts = [source.text(task.id) for task in source.task_set[: args.games]]
    best = [min(_timed(clock, parse_game, text)[0] for _ in range(args.repeats)) for text in texts]
    tracemalloc.start()
    games = [parse_game(text) for text in texts]
    per_game = tracemalloc.get_traced_memory()[0] / len(games)
    before = tracemalloc.get_traced_memory()[0]
    episodes = [Playthrough(game) for game in games]
    per_episode = (tracemalloc.get_traced_memory()[0] - before) / len(episodes)
    tracemalloc.stop()
    return {
        "load ms": f"{statistics.median(best) * 1e3:.2f} (max {max(best) * 1e3:.2f})",
        "KB per game": f"{per_game / 1024:.0f}",
        "KB per episode": f"{per_episode / 1024:.1f}",
    }


def _timed(clock: Clock, action: Callable[..., T], *arguments: Any) -> tuple[float, T]:
    start = clock()
    result = action(*arguments)
    return clock() - start, result


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            name = next(line for line in file if line.startswith("model name"))
        return name.partition(":")[2].strip()
    except (OSError, StopIteration):
        return platform.processor() or "unknown processor"


def _print_table(rows: list[dict[str, str]]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    widths = {c: max(len(c), *(len(row.get(c, "-")) for row in rows)) for c in columns}
    print("| " + " | ".join(c.ljust(widths[c]) for c in columns) + " |")
    print("|" + "|".join("-" * (widths[c] + 2) for c in columns) + "|")
    for row in rows:
        print("| " + " | ".join(row.get(c, "-").ljust(widths[c]) for c in columns) + " |")


if __name__ == "__main__":
    main()
