"""Attack what users leave to the suite: hostile actions, kills, garbled files, faulty servers.

    python -m eto_gym.benchmarks.attack --log attack.jsonl

The account says how much was done, and what was lost, ended in a traceback or was silently wrong;
the exit status is 0 if nothing was. The parts can be run one by one (`--only actions`). The work is
done in portions, each with a generator of its own and a line in the log: a second start goes on
from there, `--share 0/2` does every other portion, and the account is of all that the log holds.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym

from eto_gym.benchmarks.attack.runs import (
    LOOP_FILES,
    TRAINING_FILES,
    Account,
    attack_loop_file,
    attack_rollout,
    attack_rollout_file,
    attack_training,
    attack_training_file,
)
from eto_gym.snapshot import get_state, set_state
from eto_gym.trajectories import JsonlFile

ENVS = ("ETO/ALFWorld-v0", "ETO/WebShop-v0", "ETO/ScienceWorld-v0")
PARTS = ("actions", "kills", "trainings", "garbled", "endpoints")
SOME = 10_000
"""Hostile actions of a portion."""
SNAPSHOT_EVERY = 20
"""Actions between two comparisons of a snapshot that went through JSON."""
UNITS = [
    *("\n", " ", "\0", "\x1b[2J", "_", "\u200d", "é", "日", "\ud800", "\U0001f600", "\u202e", "％"),
    *("[", "]", "search[", "click[", "{", "}", "%s", "\\", '"', "'", "<script>", "</think>"),
    *("Action: ", "go to ", "open ", "look", "in/on", " 1", "-1", "9" * 30, "../", "<r>", "<c>"),
]


class Portion(NamedTuple):
    """A part of the work, which is done at once and then stands in the log."""

    part: str
    name: str
    work: Callable[[Account, random.Random], None]


def hostile_action(rng: random.Random, admissible: Sequence[str]) -> str:
    """Return an action that a model might say on its worst day, or that plays on."""
    kind = rng.random()
    if admissible and kind < 0.5:
        action = rng.choice(admissible)
        if kind < 0.3:
            return action
        at = rng.randrange(len(action) + 1)
        return action[:at] + rng.choice(UNITS) + action[at + rng.randrange(2) :]
    if kind < 0.9:
        return "".join(rng.choices(UNITS, k=rng.randrange(12)))
    if kind < 0.999:
        return "".join(chr(rng.randrange(0x11_0000)) for _ in range(rng.randrange(40)))
    return rng.choice(UNITS) * rng.choice((1_000, 20_000))


def attack_actions(env_id: str, count: int, account: Account, rng: random.Random) -> None:
    """Play hostile actions, and let snapshots go through JSON now and then."""
    env, other = (gym.make(env_id, admissible_actions=True) for _ in range(2))
    info: dict[str, Any] = {}
    over = True
    for number in range(count):
        if over:
            _, info = env.reset(seed=rng.randrange(1 << 30))
        action = hostile_action(rng, info.get("admissible_actions") or ())
        account.done["actions"] += 1
        started = time.thread_time()
        try:
            observation, reward, terminated, truncated, info = env.step(action)
        except Exception as err:
            account.fail(f"{env_id}: {action[:80]!r} raised {err!r}")
            over = True
            continue
        account.slowest = max(account.slowest, time.thread_time() - started)
        if not isinstance(observation, str) or not math.isfinite(float(reward)):
            account.fail(f"{env_id}: {action[:80]!r} gave {observation!r:.80}, {reward!r}")
        over = terminated or truncated
        if not over and number % SNAPSHOT_EVERY == 0:
            account.done["snapshots"] += 1
            state = json.loads(json.dumps(get_state(env)))
            other.reset(seed=0)
            set_state(other, state)
            if json.loads(json.dumps(get_state(other))) != state:
                account.fail(f"{env_id}: a snapshot changed after {action[:80]!r}")
    env.close()
    other.close()


def attack_endpoints(episodes: int, account: Account, rng: random.Random) -> None:
    """Play over servers that break in every way."""
    process = subprocess.run(
        [
            *(sys.executable, "-m", "eto_gym.benchmarks.faults", "--endpoint"),
            *("--episodes", str(episodes)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        account.fail(f"faulty endpoints: {(process.stdout + process.stderr)[-600:]}")
    account.done["episodes over faulty endpoints"] += episodes


# --- portions ------------------------------------------------------------------------------------


def portions(args: argparse.Namespace, folder: Path) -> Iterator[Portion]:
    """Yield the work in portions."""
    for env_id in args.env or ENVS:
        # The Java engine is slower by two orders of magnitude.
        share, most = (
            (args.actions // 40, 2_500) if "Science" in env_id else (args.actions // 2, SOME)
        )
        for first in range(0, share, most):
            work = partial(attack_actions, env_id, min(most, share - first))
            yield Portion("actions", f"{env_id} {first}", work)
    for number in range(-(-args.kills // 4)):
        yield Portion("kills", str(number), partial(attack_rollout, folder))
    for number in range(-(-args.trainings // 4)):
        yield Portion("trainings", str(number), partial(attack_training, folder))
    for name in ("run.jsonl", "run.settings.json"):
        yield Portion("garbled", name, partial(attack_rollout_file, name, folder))
    for name in TRAINING_FILES:
        yield Portion("garbled", name, partial(attack_training_file, name, folder))
    for name in LOOP_FILES:
        yield Portion("garbled", f"loop {name}", partial(attack_loop_file, name, folder))
    for first in range(0, args.episodes, 250):
        work = partial(attack_endpoints, min(250, args.episodes - first))
        yield Portion("endpoints", str(first), work)


def total(entries: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Add up what a log holds, by part and, of actions, by environment."""
    summed: dict[str, Counter[str]] = {}
    slowest: dict[str, float] = {}
    for entry in entries:
        part = entry["part"] + (
            f" {entry['name'].split()[0]}" if entry["part"] == "actions" else ""
        )
        summed.setdefault(part, Counter()).update(entry["done"])
        summed[part]["wrong"] += len(entry["wrong"])
        slowest[part] = max(slowest.get(part, 0.0), entry["slowest step, CPU s"])
    return {
        part: {**counts, **({"slowest step, CPU s": slowest[part]} if slowest[part] else {})}
        for part, counts in summed.items()
    }


def main() -> int:
    """Attack, and return 0 if everything held."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = parser.add_argument
    add("--actions", type=int, default=1_000_000, help="hostile actions, all environments together")
    add("--kills", type=int, default=100, help="kills of rollouts")
    add("--trainings", type=int, default=100, help="kills of tiny trainings")
    add("--episodes", type=int, default=1_000, help="episodes over faulty endpoints")
    add("--seed", type=int, default=0)
    add("--only", choices=PARTS, action="append", help="run this part (may be given again)")
    add("--env", choices=ENVS, action="append", help="attack this one's actions (may be repeated)")
    add("--log", type=Path, help="portions that were done, to go on from")
    add("--share", default="0/1", metavar="I/N", help="every N-th portion from I")
    args = parser.parse_args()
    index, count = map(int, args.share.split("/"))
    with tempfile.TemporaryDirectory(prefix="eto-attack-") as name:
        folder = Path(name)
        with JsonlFile(args.log or folder / "log.jsonl") as log:
            held = {(e["part"], e["name"], e["seed"]) for e in log.read(strict=True)}
            wanted = [p for p in portions(args, folder) if not args.only or p.part in args.only]
            for portion in wanted[index::count]:
                about = (portion.part, portion.name, args.seed)
                if about in held:
                    continue
                account = Account()
                portion.work(account, random.Random(repr(about)))
                done = {"done": account.done, "slowest step, CPU s": round(account.slowest, 3)}
                key = dict(zip(("part", "name", "seed"), about, strict=True))
                log.append({**key, **done, "wrong": account.wrong})
            summed = total(log.read(strict=True))
    print(json.dumps(summed, indent=1))
    return 1 if any(counts["wrong"] for counts in summed.values()) else 0
