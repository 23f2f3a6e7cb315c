"""Hundreds of broken files, folders, options, settings, variables and places: never a traceback."""

from __future__ import annotations

import gzip
import json
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from eto_gym.cli.main import COMMANDS, main
from tests.toy import CORRIDOR

for package in ("torch", "transformers", "peft", "jsonargparse", "trl"):
    pytest.importorskip(package)

JUNK = {
    "empty": b"",
    "blank": b" \n\t\n",
    "nul": b"\0" * 64,
    "null": b"null",
    "number": b"7",
    "text": b"hello there\n",
    "list": b"[1, [2], null]",
    "object": b'{"a": {"b": [1]}}',
    "open": b'{"id": "x", ',
    "deep": b"[" * 20_000,
    "deep-object": b'{"a":' * 20_000,
    "huge": b'{"id": ' + b"9" * 5_000 + b"}",
    "utf16": b"\xff\xfe[",
    "latin": b'[{"id": "\xe9"}]',
    "zip": b"PK\x03\x04" + b"\0" * 40,
    "cut-gzip": gzip.compress(b"x" * 500, mtime=0)[:-9],
    "noise": bytes(range(256)) * 4,
}
"""What a file may hold that was cut off, garbled, or is another one."""


class Case(NamedTuple):
    """A command line, and what the environment holds while it runs."""

    words: list[str]
    env: dict[str, str]


def case(line: str, *more: object, **env: str) -> Case:
    return Case([*shlex.split(line), *map(str, more)], env)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from eto_gym.agents.models.tiny import build_model, save_tiny, train_tokenizer

    tokenizer = train_tokenizer(["Action: look"], vocab_size=280)
    model = build_model(tokenizer, hidden_size=16, layers=1, mlp_size=16, context=64)
    return save_tiny(model, tokenizer, tmp_path_factory.mktemp("model") / "m")


PLAY = f"{CORRIDOR} --policy random --limit 1"


def files(folder: Path, model: Path) -> Iterator[Case]:
    """Files that commands read."""
    good = folder / "good.jsonl"
    talk = [{"role": "user", "content": "go"}, {"role": "assistant", "content": "Action: x"}]
    good.write_text(json.dumps({"id": "door-1/5", "messages": talk}) + "\n")
    for name, content in JUNK.items():
        path = folder / f"{name}.json"
        path.write_bytes(content)
        sft = f"train sft --model {model} --out {folder}/out"
        yield case(f"{sft} --data", path)
        yield case(f"train dpo --model {model} --out {folder}/out --data", path)
        yield case(f"train dpo --model {model} --out {folder}/out --data {good} --experts", path)
        yield case("show", path)
        yield case("view", path)
        yield case("compare", path, path)
        yield case("eval --from", path)
        yield case(f"eval {PLAY} --out {folder}/e.jsonl --compare", path)
        yield case(f"rollout {PLAY} --out {folder}/r.jsonl --task-file", path)
        if name not in ("empty", "blank", "null"):  # settings without any are settings
            yield case(f"{sft} --data {good} --dry-run --config", path)
        (folder / f"{name}.settings.json").write_bytes(content)
        if name != "object":
            (folder / f"{name}.jsonl").write_bytes(b"")
            yield case(f"rollout {PLAY} --out", folder / f"{name}.jsonl")
        gguf = folder / f"{name}.gguf"
        gguf.write_bytes(content)
        yield case(f"eval {CORRIDOR} --policy", gguf)
    for command in ("show", "view", "compare", "eval --from", f"rollout {PLAY} --task-file"):
        for place in ("/nowhere/x.json", str(folder), "x" * 300, "a\0b"):
            if command == "view" and place == str(folder):
                continue  # it holds one file that can be shown
            yield case(command, *([place, place] if command == "compare" else [place]))


def models(folder: Path, model: Path, data: Path) -> Iterator[Case]:
    """Model folders, each with a file that is not as it was written."""
    names = ("config.json", "tokenizer.json", "model.safetensors", "adapter_config.json")
    some = ("empty", "null", "object", "open", "deep", "noise")
    for name in names:
        for kind in some:
            broken = folder / f"{name}-{kind}"
            broken.mkdir()
            for path in model.iterdir():
                (broken / path.name).write_bytes(path.read_bytes())
            (broken / name).write_bytes(JUNK[kind])
            if name == "adapter_config.json":
                yield case("merge", broken, folder / "merged")
            short = "--max-steps 1 --progress false"
            yield case(f"train sft {short} --data {data} --out {folder}/o --model", broken)
            yield case(f"eval {CORRIDOR} --limit 1 --out {folder}/e.jsonl --policy", broken)
    for what in ("/nowhere", str(data), str(folder), "a b", "", "../..", "x" * 300, "a\0b"):
        yield case(f"train sft --data {data} --out {folder}/o --model", what)
        yield case(f"eval {CORRIDOR} --limit 1 --policy", what)
        yield case("merge", what, folder / "merged")
        yield case("serve", what)
    yield case("train eto --out", folder / "o", "--model", "/nowhere")


def options() -> Iterator[Case]:
    """Options that there are not, and values that they do not take."""
    yield case("nonsense")
    for name in COMMANDS:
        yield case(f"{name} --nonsense 1")
        yield case(f"{name} --nonsense=\u20ac --")
    for line in (
        *("rollout", "eval", "play", "bench", "show", "view", "compare", "merge", "serve", "data"),
        *("data nonsense", "data download nonsense", "data check /nowhere", "completion tcsh"),
        *("train nonsense", "train sft", "train eto --env nonsense", "show x y z", "shop --port x"),
        *("play nonsense", "bench nonsense", "play CartPole-v1", "play nomodule:Env-v0"),
        *("serve m --workers 0", "serve m --port 99999", "view tests --serve --port 99999"),
        *("data check .", "data build webshop --out /proc/x", "compare /nowhere /nowhere"),
    ):
        yield case(line)
    for option in (
        *("--limit x", "--slots 0", "--workers 0", "--workers -1", "--attempts 0", "--samples 0"),
        *("--samples x", "--seed x", "--shard 1", "--shard 2/2", "--shard a/b", "--task nonsense"),
        *("--task-type nonsense", "--env-arg x", "--env-arg x=1", "--env-arg split=[1]"),
        *("--prompt-style x", "--history last:x", "--history last:0", "--history x"),
        *("--launcher x", "--launcher ray:x", "--retry x", "--step-timeout 0", "--env-workers -1"),
        *("--temperature 1", "--policy-arg x=1", "--policy-arg x", "--policy nonsense"),
        *("--policy endpoint:", "--policy endpoint:http://[::1", "--policy http://x"),
        *("--policy endpoint:ftp://x", "--policy endpoint:http://x/?a --policy-arg api_key=1"),
        *("--split nonsense", "--limit 0", "--limit -1"),
    ):
        for command in ("rollout", "eval"):
            yield case(f"{command} {CORRIDOR} --out /proc/none/x.jsonl --policy random {option}")
    for option in ("--best-of 0", "--best-of 2 --samples 3", "--panel x", "--from x --panel v1"):
        yield case(f"eval {CORRIDOR} --policy random {option}")


def settings(folder: Path) -> Iterator[Case]:
    """Settings that cannot work, on the command line and in a file."""
    values = ("x", "nan", "-1", "[1]", "1e999", "")
    names = ("learning-rate", "batch-size", "max-length", "epochs", "lora-r", "optimizer")
    for name in names:
        for value in values:
            yield case(f"train sft --model m --data d --out o --dry-run --{name}", value)
    for value in ("x", "1e999"):
        for name in ("iterations", "dpo.beta", "sft.epochs", "preset"):
            yield case(f"train eto --dry-run --{name}", value)
    for text in ("a: 1", "sft: 1", "sft: {epochs: []}", "iterations: many", "- 1", "!!x y", "? :"):
        path = folder / f"{len(text)}.yaml"
        path.write_text(text)
        yield case("train eto --dry-run --config", path)
    for line in ("--lora --qlora-x", "--env-options x", '--env-options {"x":1}', "--config"):
        yield case(f"train eto --dry-run {line}")


def variables(folder: Path, model: Path, data: Path) -> Iterator[Case]:
    """Environment variables that make no sense."""
    file = folder / "file"
    file.write_text("in the way")
    sft = f"train sft --model {model} --data {data} --out {folder}/o"
    for name in ("RANK", "WORLD_SIZE"):
        for value in ("x", "", "-1"):
            yield case(sft, **{name: value})
    yield case("eval x --policy smollm2", ETO_GYM_DATA=str(file))
    yield case(f"eval {CORRIDOR} --policy smollm2", ETO_GYM_DATA=str(file))


def places(folder: Path, model: Path, data: Path) -> Iterator[Case]:
    """Places that cannot be written to."""
    file = folder / "in-the-way"
    file.write_text("")
    for place in (file / "x", Path("/proc/none/x"), folder / ("x" * 300), Path("a\0b")):
        yield case(f"rollout {PLAY} --out", f"{place}.jsonl")
        yield case(f"eval {PLAY} --out", f"{place}.jsonl")
        yield case(f"eval {PLAY} --out {folder}/e.jsonl --json", f"{place}.json")
        yield case(f"view {data} --out", f"{place}.html")
        yield case(f"train sft --model {model} --data {data} --out", place)
    yield case(f"train sft --model {model} --data {data} --out", file)
    yield case(f"train sft --model {model} --data {data} --out", folder)
    yield case(f"rollout {PLAY} --out", folder)
    yield case("train eto --out", file / "x")


def wrong(one: Case, capsys: pytest.CaptureFixture[str]) -> str | None:
    """Run a command line; return what is wrong with how it ended."""
    capsys.readouterr()
    try:
        status: object = main(one.words)
    except SystemExit as end:
        status = end.code
    except BaseException as err:
        return f"{type(err).__name__}: {str(err)[:300]}"
    told = capsys.readouterr()
    lines = told.err.splitlines()
    if not isinstance(status, int) or status == 0:
        return f"it ended with {status!r}: {(told.err or told.out)[-300:]!r}"
    if "Traceback" in told.err + told.out:
        return f"a traceback: {told.err[-300:]!r}"
    if not lines and told.out.startswith("usage: "):
        return None
    if len(lines) != 1 or len(lines[0]) > 1_000:
        return f"no one line: {told.err[-600:]!r}"
    return None


def test_nothing_that_is_broken_ends_in_a_traceback(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folders = {name: tmp_path / name for name in "abcde"}
    for folder in folders.values():
        folder.mkdir()
    data = tmp_path / "data.json"
    talk = [{"role": "user", "content": "go"}, {"role": "assistant", "content": "Action: x"}]
    data.write_text(json.dumps([{"id": "door-1/5", "messages": talk}]))
    groups: dict[str, Callable[[], Iterator[Case]]] = {
        "files": lambda: files(folders["a"], model),
        "models": lambda: models(folders["b"], model, data),
        "options": options,
        "settings": lambda: settings(folders["c"]),
        "variables": lambda: variables(folders["d"], model, data),
        "places": lambda: places(folders["e"], model, data),
    }
    tried: Counter[str] = Counter()
    failed = []
    for group, make in groups.items():
        for one in make():
            tried[group] += 1
            with monkeypatch.context() as patch:
                for name, value in one.env.items():
                    patch.setenv(name, value)
                if fault := wrong(one, capsys):
                    told = f"{one.env or ''}{' '.join(one.words)[:200]!r}"
                    failed.append(f"{group}: {told}: {fault}")
    assert not failed, f"{len(failed)} of {tried}:\n" + "\n".join(failed)
    assert tried.total() > 400, tried
    assert all(tried.values())
