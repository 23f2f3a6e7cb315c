"""Every command line that the documentation shows is one that the program takes."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sitegen.commands import parser_of

from eto_gym import registration
from eto_gym.cli.main import COMMANDS, main
from eto_gym.cli.train import METHODS
from tests.docs.conftest import ROOT, options_of

jsonargparse = pytest.importorskip("jsonargparse")

FILES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
    *sorted((ROOT / "docs/examples").rglob("*.py")),
]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_BEFORE = re.compile(r"^(?:\w+=\S*\s+)*(?:accelerate launch\b.*?(?=\$\(which|-m eto_gym))?")
_PROGRAM = ("eto-gym ", ".venv/bin/eto-gym ", "$(which eto-gym) ", "-m eto_gym.cli.main ")


def blocks(text: str) -> Iterator[str]:
    """Yield the lines of blocks of code that are for a shell."""
    for language, block in _FENCE.findall(text):
        if language in ("", "sh", "bash", "shell", "console"):
            yield from block.replace("\\\n", " ").splitlines()
    text = _FENCE.sub("", text)
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("    "):
            yield line


def command_lines(text: str) -> Iterator[list[str]]:
    """Yield the arguments of every whole command of eto-gym."""
    for raw in blocks(text):
        line = _BEFORE.sub("", raw.strip().removeprefix("$ "))
        for program in _PROGRAM:
            if line.startswith(program):
                words = shlex.split(line.removeprefix(program), comments=True)
                if words and "..." not in words:
                    yield words


def mentions(text: str) -> Iterator[list[str]]:
    """Yield the words of what the text mentions in passing, which need not be whole."""
    for code in re.findall(r"`(eto-gym [^`]+)`", _FENCE.sub("", text)):
        with contextlib.suppress(ValueError):
            yield [word for w in shlex.split(code)[1:] if (word := w.removesuffix("..."))]


def of_all(find: Any) -> list[Any]:
    found: dict[tuple[str, ...], Any] = {}
    for file in FILES:
        for words in find(file.read_text(encoding="utf-8")):
            name = f"{file.relative_to(ROOT)}: {' '.join(words)}"
            found.setdefault(tuple(words), pytest.param(words, id=name))
    return list(found.values())


class Parsed(Exception):
    """A command line was read without an error."""


@contextlib.contextmanager
def only_read() -> Iterator[None]:
    """Stop every command when it has read its command line."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in (argparse.ArgumentParser, jsonargparse.ArgumentParser):

            def read(self: Any, *args: Any, original: Any = kind.parse_args, **more: Any) -> None:
                original(self, *args, **more)
                raise Parsed

            patch.setattr(kind, "parse_args", read)
        yield


@pytest.mark.parametrize("words", of_all(command_lines))
def test_a_command_line_of_the_documentation_is_taken(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # The package among the examples, as if it were installed.
    monkeypatch.syspath_prepend(ROOT / "docs/examples/maze")
    monkeypatch.setattr(registration, "plugin_ids", lambda: {"Maze-v0": "maze:Maze-v0"})
    monkeypatch.setattr("shutil.which", lambda program: program)  # the reader's own programs
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        if words[0] == "train" and not _needs_a_download(words):
            status = main([*words, "--dry-run"])
            assert status == 0, said.getvalue()
            return
        try:
            with only_read():
                main(words)
        except Parsed:
            return
        except SystemExit as end:
            if end.code == 0:  # --help
                return
    raise AssertionError(f"not read: {said.getvalue()}")


def _needs_a_download(words: list[str]) -> bool:
    """Tell whether even a dry run would look for data that the user has fetched before."""
    return any(word.startswith("eto:") for word in words) or "--config" in words


@pytest.mark.parametrize("words", of_all(mentions))
def test_what_is_mentioned_is_there(words: list[str]) -> None:
    name, *rest = words
    if name in ("COMMAND", "--version"):
        return
    assert name in COMMANDS
    if name == "train":
        if not rest or rest[0] in ("METHOD", "--help"):
            return
        method = "eto" if rest[0].startswith("--") else rest[0]
        assert method in METHODS
        parser = parser_of(["train", method])
    else:
        parser = parser_of([name])
    parser, rest = _below(parser, rest)
    if "--" in rest:
        rest = rest[: rest.index("--")]
    known = options_of(parser)
    for option in (word.partition("=")[0] for word in rest if word.startswith("--")):
        assert option.rstrip(",.") in known, f"{' '.join(words)}: no option {option}"


def _below(parser: Any, words: list[str]) -> tuple[Any, list[str]]:
    """Go down to the parser of `eto-gym data download alfworld`."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) and words and words[0] in action.choices:
            return _below(action.choices[words[0]], words[1:])
    return parser, words


def test_the_reader_of_the_documentation_sees_what_stands_there() -> None:
    text = (
        "Use `eto-gym view PATH...`.\n\n    eto-gym eval a --policy expert   # so\n\n"
        "```sh\nRAY=1 eto-gym rollout b \\\n    --limit 3\nmake run\n"
        "accelerate launch --x y.yaml $(which eto-gym) train eto\n```\n"
    )
    assert list(command_lines(text)) == [
        ["rollout", "b", "--limit", "3"],
        ["train", "eto"],
        ["eval", "a", "--policy", "expert"],
    ]
    assert list(mentions(text)) == [["view", "PATH"]]
    assert len(of_all(command_lines)) > 40
    assert os.fspath(ROOT / "docs/methods/eto.md") in map(os.fspath, FILES)
