"""Feed mutated files to every reader: no traceback, and no record or mark lost without a word.

    python -m eto_gym.benchmarks.fuzz --files 100000 --log fuzz.jsonl
    pip install atheris && python -m eto_gym.benchmarks.fuzz --engine atheris --format lines

The first mutates valid files of each format, knowing what a record is: bytes, spans, lines, and
values within the JSON. Its log holds a line for every portion of 1,000 files, each with a generator
of its own: a second start goes on from there, `--share 0/4` takes a fourth of the portions, and the
account at the end is of all that the log holds. The second lets libFuzzer look for new ways
through the readers' code.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import gc
import gzip
import json
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

from eto_gym.errors import DataError
from eto_gym.prompt import Message
from eto_gym.trajectories import JsonlFile, Step, Trajectory, TrajectoryStore
from eto_gym.trajectories import formats as f
from eto_gym.trajectories.text_files import read_text, split_lines

SLOWEST = 0.5
"""CPU seconds that a small file may take."""

PORTION = 1_000
"""Files between two lines of the log."""

OUTCOMES = ("read", "nothing in it", "refused", "wrong")


def _turns(number: int) -> list[dict[str, Any]]:
    told = [
        ("human", "You keep a lighthouse. Reply with an action."),
        ("gpt", "Understood."),
        ("human", f"The lamp is out. Task {number} é日"),
        ("gpt", "Thought: fuel\nAction: fill lamp"),
        ("human", "Observation: it is full"),
        ("gpt", f"Thought: light\nAction: light lamp {number}"),
    ]
    return [{"from": who, "value": text, "loss": n != 4} for n, (who, text) in enumerate(told, 1)]


PAPER = [
    {"id": f"t{n}", "conversations": _turns(n), "reward": 0.5, "system": "x"} for n in range(3)
]
CHAT = [
    {
        "messages": [
            {
                "role": "user" if turn["from"] == "human" else "assistant",
                "content": turn["value"],
                "weight": int(turn["loss"]),
            }
            for turn in _turns(n)
        ],
        "success": n != 1,
    }
    for n in range(3)
]
PAIRS = [
    {
        "id": f"p{n}",
        "prompt": _turns(n)[:3],
        "chosen": _turns(n)[3:],
        "rejected": [{"from": "gpt", "value": "Action: jump"}],
        "score_chosen": 1.0,
    }
    for n in range(3)
]
STORED = [
    Trajectory(
        task_id=f"t{n}",
        task_type="toy",
        messages=(Message("user", "go é"), Message("assistant", f"Action: go {n}")),
        steps=(Step(f"go {n}", "Gone.", 0.25), Step(None, "What?", 0.5)),
        outcome="terminated",
        reward=0.75,
        success=n == 2,
        policy="x",
        env={"benchmark": "toy"},
        seed=n,
        usage={"prompt_tokens": 3},
    )
    for n in range(3)
]


def _lines(items: list[Any]) -> bytes:
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items).encode()


def _stored() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        with TrajectoryStore(f"{folder}/t.jsonl") as store:
            for item in STORED:
                store.add(item)
        return store.path.read_bytes()


class Format(NamedTuple):
    """A kind of file: the name that it has, a valid one, and what must be true of any."""

    name: str
    seed: bytes
    check: Callable[[Path], bool]


def check_demonstrations(path: Path) -> bool:
    """Read demonstrations, and account for records and marks; return whether any was read."""
    report = f.ReadReport()
    items, skipped = f.read_demonstrations(path, report=report)
    _account(path, items, skipped, report)
    _check_marks(path, items, set(skipped))
    return bool(items)


def check_pairs(path: Path) -> bool:
    """Read pairs, and account for the records."""
    report = f.ReadReport()
    items, skipped = f.read_pairs(path, report=report)
    _account(path, items, skipped, report)
    return bool(items)


def check_store(path: Path) -> bool:
    """Read stored trajectories: each is one that was written, or without a digest, or named."""
    store = TrajectoryStore(path)
    loaded = store.load()
    lines = [line for line in path.read_bytes().split(b"\n")[:-1] if line.strip()]
    assert len(loaded) + len(store.corrupt_lines) == len(lines), "a line is neither read nor named"
    if path.read_bytes().count(b'"digest"') >= len(lines):
        assert all(item in STORED for item in loaded), "a damaged record was believed"
    return bool(loaded)


def check_text(path: Path) -> bool:
    """Read a list of names."""
    return bool(split_lines(read_text(path)))


def _account(path: Path, items: list[Any], skipped: list[int], report: f.ReadReport) -> None:
    assert len(items) + len(skipped) == report.records, "a record is neither read nor named"
    expected = _records(path)
    assert expected is None or expected == report.records, f"{expected} records, {report.records}"


def _records(path: Path) -> int | None:
    """Count the records of a plain file by other means; None where that is not certain."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    if "\0" in text or "\r" in text:
        return None
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(text)
        return len(value) if isinstance(value, list) and len(value) != 1 else None
    lines = [line for line in text.split("\n") if line.strip()]
    whole = 0
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            whole += isinstance(json.loads(line), dict)
    # Most lines are records: then each line counts.
    return len(lines) if whole > 1 and whole * 2 > len(lines) else None


def _check_marks(path: Path, items: list[Trajectory], skipped: set[int]) -> None:
    """Assert that no turn is trained on that its file says is not to be."""
    with contextlib.suppress(UnicodeDecodeError, ValueError, RecursionError):
        text = path.read_bytes().decode("utf-8-sig")
        values = [json.loads(line) for line in text.split("\n") if line.strip()]
        kept = [value for n, value in enumerate(values, 1) if n not in skipped]
        if len(kept) != len(items) or not all(isinstance(value, dict) for value in kept):
            return  # a list, or lines that are counted otherwise
        for value, item in zip(kept, items, strict=True):
            turns = value.get("conversations") or value.get("messages") or ()
            unmarked = [
                turn.get("value", turn.get("content"))
                for turn in turns
                if isinstance(turn, dict) and (turn.get("loss") is False or turn.get("weight") == 0)
            ]
            trained = {message.content for message in item.messages if message.train}
            assert not trained.intersection(t for t in unmarked if isinstance(t, str)), "a mark"
            if isinstance(value.get("reward"), int | float):
                assert value["reward"] == item.reward, "a reward"


def formats() -> dict[str, Format]:
    """Return the formats by name."""
    paper = json.dumps(PAPER, ensure_ascii=False).encode()
    return {
        "list": Format("x.json", paper, check_demonstrations),
        "pretty": Format("x.json", json.dumps(PAPER, indent=1).encode(), check_demonstrations),
        "lines": Format("x.jsonl", _lines(CHAT), check_demonstrations),
        "stored": Format("x.jsonl", _stored(), check_demonstrations),
        "pairs": Format("x.json", json.dumps(PAIRS).encode(), check_pairs),
        "pair-lines": Format("x.jsonl", _lines(PAIRS), check_pairs),
        "store": Format("x.jsonl", _stored(), check_store),
        "utf16": Format("x.json", json.dumps(PAPER).encode("utf-16"), check_demonstrations),
        "gzip": Format("x.jsonl.gz", gzip.compress(_lines(CHAT)), check_demonstrations),
        "tasks": Format("x.txt", codecs.BOM_UTF8 + "a/1\r\nb é/2\r".encode(), check_text),
    }


# --- mutations -----------------------------------------------------------------------------------

VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 0.5, 1e308, 10**400, "", "no", "gpt", "é\ud800", "\0", [], {}),
    *([1], [[]], {"from": "gpt"}, {"role": "assistant", "content": None}, float("nan")),
]
TOKENS = [
    *(b"[", b"]", b"{", b"}", b",", b":", b'"', b"\n", b"\r", b"\0", b"\\", b"null", b"NaN"),
    *(b"\xff", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\\ud800", b"[" * 5_000, b"9" * 5_000, b"1e999"),
    *(b'"loss": false', b'"weight": 0', b'"reward": "x"', b'"steps": []', b'"id": [1], '),
]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Return a file's content with one to three changes."""
    for _ in range(rng.randint(1, 3)):
        kind = rng.random()
        if kind < 0.4:
            data = _changed_value(data, rng)
            continue
        spoilt = bytearray(data or b"x")
        at = rng.randrange(len(spoilt))
        until = min(len(spoilt), at + rng.choice((1, 2, 8, 64, 512)))
        if kind < 0.55:
            spoilt[at] ^= 1 << rng.randrange(8)
        elif kind < 0.7:
            spoilt[at:at] = rng.choice(TOKENS)
        elif kind < 0.8:
            del spoilt[at:until]
        elif kind < 0.86:
            spoilt[at:at] = spoilt[at:until]
        elif kind < 0.92:
            lines = bytes(spoilt).splitlines(keepends=True)
            rng.shuffle(lines)
            spoilt = bytearray(b"".join(lines))
        elif kind < 0.96:
            del spoilt[at:]
        else:
            spoilt[at:until] = rng.randbytes(until - at)
        data = bytes(spoilt)
    return data


def _changed_value(data: bytes, rng: random.Random) -> bytes:
    """Change a value, or a key, within the JSON of a file, or of one of its lines."""
    lines = data.splitlines(keepends=True) or [b"{}"]
    number = rng.randrange(len(lines))
    for part in (data, lines[number]):
        try:
            value = json.loads(part)
        except (ValueError, RecursionError):
            continue
        changed = _dumped(_replaced(value, rng))
        if part is data:
            return changed
        lines[number] = changed + b"\n"
        return b"".join(lines)
    return data


def _dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=True).encode()


def _replaced(value: Any, rng: random.Random) -> Any:
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        kind = rng.random()
        if kind < 0.1:
            return [*value[:at], *value[at + 1 :]]
        if kind < 0.2:
            return [*value[:at], value[at], *value[at:]]
        return [*value[:at], _replaced(value[at], rng), *value[at + 1 :]]
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice([*value])
        kind = rng.random()
        if kind < 0.1:
            return {name: item for name, item in value.items() if name != key}
        if kind < 0.2:
            return {**value, rng.choice(("id", "steps", "role", "loss", "x")): rng.choice(VALUES)}
        return {**value, key: _replaced(value[key], rng)}
    return rng.choice(VALUES)


# --- engines -------------------------------------------------------------------------------------


def judge(form: Format, path: Path, data: bytes) -> str:
    """Read a file; return how it went, "wrong: ..." where it went as it must not."""
    path.write_bytes(data)
    began = time.thread_time()
    try:
        outcome = "read" if form.check(path) else "nothing in it"
    except DataError as err:
        outcome = "refused"
        if "\n" in str(err) or len(str(err)) > 2_000:
            return f"wrong: no one line: {str(err)[:200]!r}"
    except AssertionError as err:
        return f"wrong: {err}"
    except Exception as err:
        return f"wrong: {err!r:.300}"
    spent = time.thread_time() - began
    return f"wrong: it took {spent:.2f} s" if spent > SLOWEST else outcome


def mutate(name: str, portion: int, files: int, seed: int, folder: Path) -> dict[str, Any]:
    """Read a portion of the mutated files of one format; return the account."""
    form, rng = formats()[name], random.Random(f"{seed} {name} {portion}")
    path = folder / form.name
    done: dict[str, Any] = {"files": 0, **dict.fromkeys(OUTCOMES, 0)}
    began = time.process_time()
    if judge(form, path, form.seed) != "read":
        raise SystemExit(f"{name}: the valid file is not read")
    for _ in range(files):
        data = mutated(form.seed, rng)
        outcome = judge(form, path, data)
        done["files"] += 1
        if outcome.startswith("wrong"):
            done["wrong"] += 1
            print(f"{name}: {outcome}: {data[:300]!r}", flush=True)
        else:
            done[outcome] += 1
    return {**done, "CPU s": round(time.process_time() - began, 2)}


def mutate_all(
    names: Sequence[str], files: int, seed: int, log: JsonlFile, share: tuple[int, int]
) -> None:
    """Read the portions that a log does not hold yet, and add each to it."""
    held = {(entry["format"], entry["portion"], entry["seed"]) for entry in log.read(strict=True)}
    # Portion by portion and not format by format: what has been done is of all formats.
    wanted = [(name, n) for n in range(-(-files // PORTION)) for name in names]
    index, count = share
    with tempfile.TemporaryDirectory(prefix="eto-fuzz-") as folder:
        for name, portion in wanted[index::count]:
            if (name, portion, seed) in held:
                continue
            some = min(PORTION, files - portion * PORTION)
            account = mutate(name, portion, some, seed, Path(folder))
            log.append({"format": name, "portion": portion, "seed": seed, **account})


def total(entries: Iterable[dict[str, Any]]) -> dict[str, Counter[str]]:
    """Add up what a log holds, by format."""
    summed: dict[str, Counter[str]] = {}
    for entry in entries:
        counts = {key: entry[key] for key in (*OUTCOMES, "files", "CPU s")}
        summed.setdefault(entry["format"], Counter()).update(counts)
    return summed


def let_atheris(name: str, files: int, folder: Path) -> None:
    """Let libFuzzer mutate; it ends the process, with a status other than 0 on what is wrong."""
    import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]

    form = formats()[name]
    corpus = folder / "corpus"
    corpus.mkdir()
    (corpus / "seed").write_bytes(form.seed)
    # Ours alone: in all that is imported there are so many functions that no file is read for long.
    for item in gc.get_objects():
        if isinstance(item, FunctionType) and str(item.__module__).startswith("eto_gym."):
            atheris.instrument_func(item)

    def one(data: bytes) -> None:
        outcome = judge(form, folder / form.name, data)
        if outcome.startswith("wrong"):
            raise RuntimeError(outcome)

    atheris.Setup([sys.argv[0], f"-runs={files}", "-max_len=8192", str(corpus)], one)
    atheris.Fuzz()


def main() -> int:
    """Fuzz, and return 0 if nothing went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--files", type=int, default=100_000, help="files of each format")
    parser.add_argument("--format", choices=formats(), action="append")
    parser.add_argument("--engine", choices=("mutate", "atheris"), default="mutate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, help="portions that were read, to go on from")
    parser.add_argument("--share", default="0/1", metavar="I/N", help="every N-th portion from I")
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    names = args.format or list(formats())
    index, count = map(int, args.share.split("/"))
    with tempfile.TemporaryDirectory(prefix="eto-fuzz-") as folder:
        if args.engine == "atheris":
            let_atheris(names[0], args.files, Path(folder))
            return 0
        with JsonlFile(args.log or Path(folder) / "log.jsonl") as log:
            mutate_all(names, args.files, args.seed, log, (index, count))
            summed = total(log.read(strict=True))
    for name, account in summed.items():
        print(f"{name}: {json.dumps(account)}", flush=True)
    return 1 if any(account["wrong"] for account in summed.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
