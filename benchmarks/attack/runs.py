"""Attacks on runs: they are killed, and the files that they left are garbled one by one."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from eto_gym.cli.main import main as command
from eto_gym.trajectories import TrajectoryStore

EPISODES = 40
"""Episodes of the rollouts that are killed and whose files are garbled."""
TRAINING_FILES = (
    *(f"done/out/{name}" for name in ("config.json", "files.sha256", "training.json")),
    *("done/out/metrics.jsonl", "done/out/model.safetensors", "done/out/tokenizer.json"),
    "begun/out.work/fingerprint.json",
    *(
        f"begun/out.work/checkpoint-8/{name}"
        for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json")
    ),
    *("begun/out.work/checkpoint-8/complete", "begun/out.work/checkpoint-8/rng_state.pth"),
)
"""Files of a training: of one that is finished, and of one that was cut off at its end."""
LOOP_FILES = (
    *("config.json", "date.json", "finished.json", "report.json"),
    *("stages/experts-*/trajectories.jsonl", "stages/experts-*/finished.json"),
    *("stages/experts-*/settings.json", "stages/experts-*/attempts.jsonl"),
    *("stages/explore-1-*/trajectories.jsonl", "stages/explore-1-*/finished.json"),
    *("stages/pairs-1-*/pairs.json", "stages/pairs-1-*/finished.json"),
    *("stages/eval-sft-*/trajectories.jsonl", "stages/eval-sft-*/finished.json"),
    *("stages/sft-*/sft.json", "stages/sft-*/finished.json", "stages/sft-*/settings.json"),
    *(
        f"stages/sft-*/model/{name}"
        for name in ("config.json", "files.sha256", "training.json", "metrics.jsonl")
    ),
    *("stages/sft-*/model/model.safetensors", "stages/sft-*/model/tokenizer.json"),
)
"""Files of a loop's run folder: one of each kind."""


class Account:
    """What a portion did, and what went wrong."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.slowest = 0.0
        self.wrong: list[str] = []

    def fail(self, what: str) -> None:
        """Note something that must not happen."""
        self.wrong.append(what)
        print(f"WRONG: {what}", flush=True)


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


def training_command(place: Path, out: Path) -> list[str]:
    """Return the command of a tiny training on what `prepare_training` wrote."""
    return [
        *("train", "sft", "--model", str(place / "model"), "--data", str(place / "experts.jsonl")),
        *("--out", str(out), "--max-steps", "8", "--save-every", "2", "--batch-size", "4"),
        *("--micro-batch-size", "4", "--learning-rate", "1e-3", "--progress", "false"),
    ]


def prepare_training(place: Path) -> bytes:
    """Write demonstrations and a model, train it, and return the weights that come of it."""
    from eto_gym.agents.models.tiny import build_model, save_tiny, train_tokenizer

    with quiet():
        command(rollout_command(place / "experts.jsonl", policy="expert"))
        shown = TrajectoryStore(place / "experts.jsonl").load()
        tokenizer = train_tokenizer([m.content for t in shown[:4] for m in t.messages])
        model = build_model(tokenizer, hidden_size=32, layers=1, mlp_size=32, context=8192)
        save_tiny(model, tokenizer, place / "model")
        command(training_command(place, place / "alone"))
    return weights(place / "alone")


def weights(folder: Path) -> bytes:
    """Return the weights of a model folder."""
    return (folder / "model.safetensors").read_bytes()


def run(args: Sequence[str], until: Callable[[], object] | None = None) -> tuple[int | None, str]:
    """Run a command of the shell, and kill it when `until` returns; return its status and words.

    The status is None where it was killed.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "eto_gym.cli.main", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        if until is not None:
            threading.Thread(target=_kill, args=(process, until), daemon=True).start()
        told, _ = process.communicate()
    return (None if process.returncode == -signal.SIGKILL else process.returncode), told


def _kill(process: subprocess.Popen[str], until: Callable[[], object]) -> None:
    until()
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)  # the parent alone: its workers must follow


def run_through_kills(
    account: Account, args: Sequence[str], kills: int, until: Callable[[], object]
) -> None:
    """Run a command to its end although it is killed now and then, and count how often it was."""
    for attempt in itertools.count():
        status, told = run(args, until if attempt < kills else None)
        if "Traceback" in told:
            account.fail(f"{args[0]}: {told[-400:]}")
        if status is None:
            account.done["kills"] += 1
            continue
        if status:
            account.fail(f"{args[0]} ended with {status}: {told[-400:]}")
        return


def attack_rollout(folder: Path, account: Account, rng: random.Random) -> None:
    """Kill a rollout four times; its results must be those of one that was left alone."""
    alone, killed = folder / "alone.jsonl", folder / f"killed-{rng.random()}.jsonl"
    usual = folder / "usual"
    if not usual.exists():
        began = time.monotonic()
        run(rollout_command(alone))
        usual.write_text(str(time.monotonic() - began), "utf-8")
    limit = float(usual.read_text("utf-8"))
    run_through_kills(
        account, rollout_command(killed), 4, lambda: time.sleep(rng.uniform(0.1, limit))
    )
    if records(killed) != records(alone):
        account.fail("a rollout that was killed differs from one that was left alone")


def attack_training(folder: Path, account: Account, rng: random.Random) -> None:
    """Kill a training four times around its checkpoints; the weights must be those of another."""
    place = folder / "training"
    if not (place / "alone").is_dir():
        prepare_training(place)
    out = folder / f"killed-{rng.random()}"

    def checkpoint() -> None:
        """Wait until one more checkpoint is begun, and then a little."""
        before = set(out.parent.glob(f"{out.name}.work/checkpoint-*"))
        while set(out.parent.glob(f"{out.name}.work/checkpoint-*")) <= before and not out.exists():
            time.sleep(0.01)
        time.sleep(rng.choice((0.0, rng.uniform(0, 0.05), rng.uniform(0, 0.5))))

    run_through_kills(account, training_command(place, out), 4, checkpoint)
    if weights(out) != weights(place / "alone"):
        account.fail("a training that was killed has other weights")


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


def attack_rollout_file(name: str, folder: Path, account: Account, rng: random.Random) -> None:
    """Garble a file beside a finished rollout, and run the command again."""
    whole = folder / "garbled-rollout"
    if not whole.exists():
        with quiet():
            command(rollout_command(whole / "run.jsonl"))
    wanted = set(records(whole / "run.jsonl"))

    def lost(place: Path) -> bool:
        return bool(wanted - set(readable(place / "run.jsonl")))

    garble(whole, name, lambda place: rollout_command(place / "run.jsonl"), lost, account, rng)


def attack_training_file(name: str, folder: Path, account: Account, rng: random.Random) -> None:
    """Garble a file of a training, finished or cut off at a checkpoint, and run it again."""
    place, whole = folder / "training", folder / "garbled-training"
    if not (place / "alone").is_dir():
        prepare_training(place)
    if not whole.exists():
        shutil.copytree(place / "alone", whole / "done" / "out")
        with quiet():  # the same, cut off by a disk that is full when the model is written
            out = whole / "begun" / "out"
            (out.parent / "out.partial").parent.mkdir(parents=True)
            (out.parent / "out.partial").write_text("in the way", "utf-8")
            command(training_command(place, out))
        (out.parent / "out.partial").unlink()
    state, _, inner = name.partition("/")
    wanted = weights(place / "alone")
    garble(
        whole / state,
        inner,
        lambda copy: training_command(place, copy / "out"),
        lambda copy: weights(copy / "out") != wanted,
        account,
        rng,
    )


def loop_command(out: Path) -> list[str]:
    """Return the command of a loop that has every stage, and nothing to learn from."""
    sizes = {
        "train-tasks": 4, "explore-tasks": 3, "explore-samples": 2, "eval-tasks": 3, "dev-tasks": 0,
        "max-steps": 6, "max-new-tokens": 6, "workers": 1, "progress": "false",
        "base.tasks": 4, "base.steps": 3, "base.vocab-size": 400, "base.hidden-size": 16,
        "base.layers": 1, "base.heads": 2, "base.kv-heads": 1, "base.mlp-size": 16,
        "pairing.contrast": "expert", "sft.max-steps": 1, "dpo.max-steps": 1,
    }  # fmt: skip
    words = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    return [
        "train",
        "eto",
        "--preset",
        "quickstart",
        "--env",
        "alfworld",
        "--out",
        str(out),
        *words,
    ]


def attack_loop_file(pattern: str, folder: Path, account: Account, rng: random.Random) -> None:
    """Garble a file of a loop's run folder, and run the loop again, to the same scores."""
    whole = folder / "garbled-loop"
    if not whole.exists():
        with quiet() as told:
            assert not command(loop_command(whole / "run")), told.getvalue()

    def scores(place: Path) -> str:
        report = json.loads((place / "run" / "report.json").read_text("utf-8"))
        for row in report["policies"]:
            for name in ("train_seconds", "eval_seconds"):
                del row[name]
            del row["card"]["model"]  # a folder
        return json.dumps(report["policies"])

    wanted = scores(whole)
    (file,) = (whole / "run").glob(pattern)
    garble(
        whole,
        str(file.relative_to(whole)),
        lambda copy: loop_command(copy / "run"),
        lambda copy: scores(copy) != wanted,
        account,
        rng,
    )


def garble(
    whole: Path,
    name: str,
    words: Callable[[Path], list[str]],
    lost: Callable[[Path], bool],
    account: Account,
    rng: random.Random,
) -> None:
    """Garble a file of a folder in 30 ways; the command refuses it, or ends as if it were whole."""
    place = whole.with_name(f"{whole.name}.copy")
    for content in garbled((whole / name).read_bytes(), rng):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(whole, place)
        (place / name).write_bytes(content)
        account.done["garbled files"] += 1
        try:
            with quiet() as told:
                status = command(words(place))
        except (Exception, SystemExit) as err:
            account.fail(f"{name} garbled ({content[:40]!r}): {err!r}")
            continue
        if status:
            account.done["refused"] += 1
            if "Traceback" in told.getvalue():
                account.fail(f"{name} garbled ({content[:40]!r}): a traceback")
        elif lost(place):
            account.fail(f"{name} garbled ({content[:40]!r}): silently wrong")
        else:
            account.done["went on"] += 1


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
