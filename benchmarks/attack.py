"""Attack what users leave to the suite: hostile actions, kills, garbled files, faulty servers.

    python -m eto_gym.benchmarks.attack --actions 1000000 --kills 100 --trainings 20

The account says how much was done, and what was lost, ended in a traceback or was silently wrong;
the exit status is 0 if nothing was. The parts can be run one by one (`--only actions`).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym

import eto_gym
from eto_gym.cli.main import main as command
from eto_gym.snapshot import get_state, set_state

ENVS = ("ETO/ALFWorld-v0", "ETO/WebShop-v0", "ETO/ScienceWorld-v0")
PARTS = ("actions", "kills", "trainings", "garbled", "endpoints")
EPISODES = 40
"""Episodes of the rollouts that are killed and whose files are garbled."""
SNAPSHOT_EVERY = 20
"""Actions between two comparisons of a snapshot that went through JSON."""
UNITS = [
    *("\n", " ", "\0", "\x1b[2J", "_", "\u200d", "é", "日", "\ud800", "\U0001f600", "\u202e", "％"),
    *("[", "]", "search[", "click[", "{", "}", "%s", "\\", '"', "'", "<script>", "</think>"),
    *("Action: ", "go to ", "open ", "look", "in/on", " 1", "-1", "9" * 30, "../", "<r>", "<c>"),
]


class Account:
    """What was done and what went wrong."""

    def __init__(self) -> None:
        self.done: dict[str, Any] = {}
        self.wrong: list[str] = []

    def fail(self, what: str) -> None:
        """Note something that must not happen."""
        self.wrong.append(what)
        print(f"WRONG: {what}", flush=True)


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


def attack_actions(
    account: Account, count: int, rng: random.Random, envs: Sequence[str] = ENVS
) -> None:
    """Play hostile actions, and let snapshots go through JSON now and then."""
    for env_id in envs:
        # The Java engine is slower by two orders of magnitude.
        share = count // 40 if "Science" in env_id else count // 2
        try:
            env, other = (gym.make(env_id, admissible_actions=True) for _ in range(2))
        except eto_gym.EtoGymError as err:
            account.done[env_id] = f"left out: {err}"
            continue
        info: dict[str, Any] = {}
        began, snapshots, slowest, over = time.monotonic(), 0, 0.0, True
        for number in range(share):
            if over:
                _, info = env.reset(seed=rng.randrange(1 << 30))
            action = hostile_action(rng, info.get("admissible_actions") or ())
            started = time.thread_time()
            try:
                observation, reward, terminated, truncated, info = env.step(action)
            except Exception as err:
                account.fail(f"{env_id}: {action[:80]!r} raised {err!r}")
                over = True
                continue
            slowest = max(slowest, time.thread_time() - started)
            if not isinstance(observation, str) or not math.isfinite(float(reward)):
                account.fail(f"{env_id}: {action[:80]!r} gave {observation!r:.80}, {reward!r}")
            over = terminated or truncated
            if not over and number % SNAPSHOT_EVERY == 0:
                snapshots += 1
                state = json.loads(json.dumps(get_state(env)))
                other.reset(seed=0)
                set_state(other, state)
                if json.loads(json.dumps(get_state(other))) != state:
                    account.fail(f"{env_id}: a snapshot changed after {action[:80]!r}")
        account.done[env_id] = {
            "actions": share,
            "snapshots": snapshots,
            "slowest step, CPU s": round(slowest, 3),
            "s": round(time.monotonic() - began),
        }
        print(f"{env_id}: {account.done[env_id]}", flush=True)
        env.close()
        other.close()


# --- runs that are killed ------------------------------------------------------------------------


def rollout_command(out: Path, policy: str = "random") -> list[str]:
    """Return the command of a small rollout."""
    return [
        *("rollout", "alfworld", "--policy", policy, "--env-arg", "data=builtin:small"),
        *("--limit", str(EPISODES), "--seed", "7", "--slots", "4", "--out", str(out)),
    ]


def records(path: Path) -> list[str]:
    """Return the records of a trajectory file in an order of their own, without their times."""
    found = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    for record in found:
        drop_times(record)
    return sorted(json.dumps(record, sort_keys=True) for record in found)


def drop_times(record: dict[str, Any]) -> None:
    """Take out of a record what no two runs share, and the digest of it."""
    for name in ("usage", "digest"):
        record.pop(name, None)


def run(args: Sequence[str], kill_after: float | None = None) -> tuple[int | None, str]:
    """Run a command of the shell; return its status (None: killed) and what it told."""
    with subprocess.Popen(
        [sys.executable, "-m", "eto_gym.cli.main", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            told, _ = process.communicate(timeout=kill_after)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)  # the parent alone: its workers must follow
            told, _ = process.communicate()
            return None, told
    return process.returncode, told


def run_through_kills(
    account: Account, args: Sequence[str], kills: int, seconds: float, rng: random.Random
) -> int:
    """Run a command to its end although it is killed; return how often it was."""
    killed = 0
    while True:
        after = rng.uniform(0.1, seconds) if killed < kills else None
        status, told = run(args, after)
        if "Traceback" in told:
            account.fail(f"{args[0]}: {told[-400:]}")
        if status is not None:
            if status:
                account.fail(f"{args[0]} ended with {status}: {told[-400:]}")
            return killed
        killed += 1


def attack_runs(account: Account, folder: Path, kills: int, rng: random.Random) -> None:
    """Kill rollouts; nothing may be lost, and the results must be those of a run left alone."""
    began = time.monotonic()
    run(rollout_command(folder / "alone.jsonl"))
    wanted = records(folder / "alone.jsonl")
    usual = time.monotonic() - began
    done = 0
    for attempt in itertools.count():
        if done >= kills:
            break
        out = folder / f"killed{attempt}.jsonl"
        killed = run_through_kills(account, rollout_command(out), 4, usual, rng)
        done += max(1, killed)
        if records(out) != wanted:
            account.fail(f"a rollout that was killed {killed} times differs")
    account.done["kills of rollouts"] = done


def attack_trainings(account: Account, folder: Path, kills: int, rng: random.Random) -> None:
    """Kill tiny trainings; the weights must be those of a training left alone."""
    data = folder / "experts.jsonl"
    run(rollout_command(data, policy="expert"))

    def train(out: Path) -> list[str]:
        return [
            *("train", "sft", "--model", "tiny", "--data", str(data), "--out", str(out)),
            *("--train.epochs", "2", "--train.save_steps", "2"),
        ]

    began = time.monotonic()
    status, told = run(train(folder / "alone"))
    if status:
        account.fail(f"a tiny training ended with {status}: {told[-400:]}")
        return
    usual = time.monotonic() - began
    wanted = (folder / "alone" / "model.safetensors").read_bytes()
    done = 0
    for attempt in itertools.count():
        if done >= kills:
            break
        out = folder / f"killed{attempt}"
        done += max(1, run_through_kills(account, train(out), 4, usual, rng))
        if (out / "model.safetensors").read_bytes() != wanted:
            account.fail("a training that was killed has other weights")
    account.done["kills of trainings"] = done


# --- files that are garbled ----------------------------------------------------------------------


def garbled(content: bytes, rng: random.Random) -> Iterator[bytes]:
    """Yield a file's content spoilt in 30 ways."""
    yield from (b"", b"[1]", b"null", b"{}", b"\xff\xfe", b"\0" * len(content), b"[" * 100_000)
    yield from (content[:-1], content[: len(content) // 2], content[len(content) // 2 :])
    yield from (content + content, content + b"\n{", b"\xef\xbb\xbf" + content, b"\n" + content)
    yield content.decode("utf-8", "replace").encode("utf-16")
    for old, new in (
        (b"true", b'"no"'),
        (b"0.0", b"NaN"),
        (b"0.0", b"1e308"),
        (b'"', b"'"),
        (b"1", b"null"),
    ):
        yield content.replace(old, new)
    lines = content.splitlines(keepends=True)
    yield b"".join(lines[1:])
    yield b"".join(reversed(lines))
    for _ in range(8):
        spoilt = bytearray(content or b"x")
        for _ in range(3):
            bit = rng.randrange(8 * len(spoilt))
            spoilt[bit // 8] ^= 1 << (bit % 8)
        yield bytes(spoilt)


def attack_files(account: Account, folder: Path, rng: random.Random) -> None:
    """Garble every file beside a finished rollout, one by one, and run the command again."""
    whole, place = folder / "whole", folder / "place"
    whole.mkdir()
    with quiet():
        command(rollout_command(whole / "run.jsonl"))
    wanted = records(whole / "run.jsonl")
    tried = refused = mended = 0
    for name in sorted(path.name for path in whole.iterdir()):
        for content in garbled((whole / name).read_bytes(), rng):
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(whole, place)
            (place / name).write_bytes(content)
            tried += 1
            try:
                with quiet() as told:
                    status = command(rollout_command(place / "run.jsonl"))
            except (Exception, SystemExit) as err:
                account.fail(f"{name} garbled ({content[:40]!r}): {err!r}")
                continue
            if status:
                refused += 1
                if "Traceback" in told.getvalue():
                    account.fail(f"{name} garbled ({content[:40]!r}): a traceback")
            elif set(wanted) - set(readable(place / "run.jsonl")):
                account.fail(f"{name} garbled ({content[:40]!r}): silently wrong")
            else:
                mended += 1
    account.done["garbled files"] = {"tried": tried, "refused": refused, "played on": mended}


def readable(path: Path) -> list[str]:
    """Return the records of a file that can be read."""
    found = []
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            record = json.loads(line)
            if isinstance(record, dict):
                drop_times(record)
            found.append(json.dumps(record, sort_keys=True))
    return found


@contextlib.contextmanager
def quiet() -> Iterator[io.StringIO]:
    """Keep what a command tells."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        yield told


def attack_endpoints(account: Account, episodes: int) -> None:
    """Play over servers that break in every way."""
    began = time.monotonic()
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
    account.done["episodes over faulty endpoints"] = episodes
    account.done["their s"] = round(time.monotonic() - began)


def main() -> int:
    """Attack, and return 0 if everything held."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = parser.add_argument
    add("--actions", type=int, default=1_000_000, help="hostile actions, all environments together")
    add("--kills", type=int, default=100, help="kills of rollouts")
    add("--trainings", type=int, default=20, help="kills of tiny trainings")
    add("--episodes", type=int, default=1_000, help="episodes over faulty endpoints")
    add("--seed", type=int, default=0)
    add("--only", choices=PARTS, action="append", help="run this part (may be given again)")
    add("--env", choices=ENVS, action="append", help="attack this one's actions (may be repeated)")
    args = parser.parse_args()
    account, rng = Account(), random.Random(args.seed)
    with tempfile.TemporaryDirectory(prefix="eto-attack-") as name:
        folder = Path(name)
        parts: dict[str, Callable[[], None]] = {
            "actions": lambda: attack_actions(account, args.actions, rng, args.env or ENVS),
            "kills": lambda: attack_runs(account, folder, args.kills, rng),
            "trainings": lambda: attack_trainings(account, folder, args.trainings, rng),
            "garbled": lambda: attack_files(account, folder, rng),
            "endpoints": lambda: attack_endpoints(account, args.episodes),
        }
        for part in args.only or PARTS:
            parts[part]()
    print(json.dumps({**account.done, "wrong": len(account.wrong)}, indent=1))
    return 1 if account.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
