"""The examples of README.md, docs/ and the Makefile, run as far as a test can run them."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from eto_gym.cli import main as command_line
from eto_gym.cli.main import main
from eto_gym.cli.parsing import Parser
from eto_gym.cli.train import LOOPS
from eto_gym.trajectories import eto_files

ROOT = Path(__file__).parents[2]
BENCHMARKS = ("alfworld", "webshop", "scienceworld")
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^    .*\n)+", re.MULTILINE)
_COMMAND = re.compile(r"^(?:\w+=\S* )*(?:\$\(BIN\)/)?eto-gym (.*)")
_LAUNCHED = re.compile(r"^accelerate launch .*(?:eto_gym\.cli\.main|\$\(which eto-gym\)) (.*)")


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def shell_lines(page: Path) -> list[str]:
    """Return the lines of a page's shell blocks, those that go on in the next one joined."""
    text = page.read_text("utf-8")
    if page.name == "Makefile":
        blocks = [re.sub(r"^\t", "", text, flags=re.MULTILINE)]
    else:
        blocks = [body for kind, body in _BLOCK.findall(text) if kind in ("sh", "bash")]
        blocks += [re.sub("^    ", "", body, flags=re.M) for body in _INDENTED.findall(text)]
    return [
        line.strip() for body in blocks for line in body.replace("\\\n", " ").split("\n") if line
    ]


def examples(*files: Path) -> list[tuple[str, ...]]:
    """Return the words after `eto-gym` of every example of some pages, each once."""
    found: dict[tuple[str, ...], None] = {}
    for page in files:
        for line in shell_lines(page):
            if match := _COMMAND.match(line) or _LAUNCHED.match(line):
                text = match[1].replace("$(ARGS)", "")
                found[tuple(shlex.split(text, comments=True))] = None
    return list(found)


EXAMPLES = examples(*pages(), ROOT / "Makefile")
# The maze is a package of its own, which tests/docs runs as if it were installed.
TRAINING = [words for words in EXAMPLES if words[0] == "train" and "maze" not in words]
LOOP_EXAMPLES = [
    words
    for words in TRAINING
    if words[1] in LOOPS and not any(w.startswith("--env-arg") for w in words)
]


def on(words: tuple[str, ...], env: str) -> tuple[str, ...]:
    """Return a loop's example for another environment."""
    if "--env" not in words:
        return (*words, "--env", env)
    place = words.index("--env") + 1
    return (*words[:place], env, *words[place + 1 :])


def test_the_examples_are_found() -> None:
    assert len(EXAMPLES) > 25
    assert {words[1] for words in TRAINING} >= {*LOOPS, "sft", "dpo", "sb3"}
    assert {words[0] for words in EXAMPLES} >= {"rollout", "eval", "compare", "bench", "serve"}
    assert ("train", "eto", "--env", "ETO/ALFWorld-v0", "--preset", "quickstart") in EXAMPLES


@pytest.mark.parametrize(
    "words", [words for words in EXAMPLES if words[0] != "train"], ids=" ".join
)
def test_the_options_of_an_example_exist(words: tuple[str, ...]) -> None:
    name, *rest = words
    module: Any = importlib.import_module(command_line.COMMANDS[name][0])
    parser = Parser(prog=name)
    module.configure(parser)
    if name == "serve" and "--" in rest:  # what follows is for the server
        rest = rest[: rest.index("--")]
    parser.parse_args(rest)


def not_run_elsewhere() -> list[tuple[str, ...]]:
    """Return the examples that tests/docs/test_command_lines.py does not run dry."""
    there = set(examples(*pages()))
    known = [words for words in TRAINING if any(word.startswith("eto:") for word in words)]
    return [words for words in TRAINING if words not in there] + known


@pytest.mark.parametrize("words", not_run_elsewhere(), ids=" ".join)
def test_training_examples_hold(
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("jsonargparse")
    if any(word.startswith(eto_files.PREFIX) for word in words):
        # What the line before it on its page downloads; a dry run looks for it and not into it.
        monkeypatch.setenv("ETO_GYM_DATA", str(tmp_path))
        folder = eto_files.default_folder()
        folder.mkdir(parents=True)
        for file in eto_files.FILES.values():
            (folder / file.name).write_text("[]")
    assert main([*words, "--dry-run"]) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize("env", BENCHMARKS)
def test_examples_of_loops_hold_on_every_benchmark(
    env: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("jsonargparse")
    seen = {on(words[:2] if "--preset" not in words else words, env) for words in LOOP_EXAMPLES}
    assert {words[1] for words in seen} == set(LOOPS)
    for words in sorted(seen):
        assert main([*words, "--dry-run"]) == 0, words
        assert "env: ETO/" in capsys.readouterr().out


@pytest.mark.usefixtures("warm_engine")
@pytest.mark.parametrize("env", BENCHMARKS)
def test_playing_examples_play_on_every_benchmark(
    env: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One episode each, by a scripted policy: ScienceWorld's expert takes half a minute a task."""
    monkeypatch.chdir(tmp_path)
    chain = [
        words for page in ("README.md", "docs/scores.md") for line in shell_lines(ROOT / page)
        if "panel" not in line  # played in tests/agents/evaluation/test_panel.py
        and (match := _COMMAND.match(line))
        and (words := shlex.split(match[1], comments=True))[0] in ("rollout", "eval", "compare")
    ]  # fmt: skip
    assert [words[0] for words in chain] == ["rollout", "eval", "eval", "eval", "compare"]
    for words in chain:
        if words[0] == "compare":
            assert main(words) == 0
            continue
        words[1] = env
        if env == "webshop":  # it has no dev split
            words = [{"dev": "test"}.get(word, word) for word in words]
        policy = words.index("--policy") + 1
        if words[policy] == "MODEL":  # its own options go with it
            at = words.index("--temperature")
            del words[at : at + 2]
        if words[policy] == "MODEL" or env == "scienceworld":
            words[policy] = "random"
        if "--limit" in words:
            words[words.index("--limit") + 1] = "1"
        else:
            words += ["--limit", "1"]
        assert main([*words, "--slots", "1", "--env-arg", "max_episode_steps=5"]) == 0, words
    assert "random" in capsys.readouterr().out
    assert Path("experts.jsonl").is_file()


def test_python_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the README and of the candidates; the ones about servers are only compiled.

    The long training is cut to one round of play.
    """
    monkeypatch.chdir(tmp_path)
    cut = 0
    for page in pages():
        space: dict[str, Any] = {}
        for kind, body in _BLOCK.findall(page.read_text("utf-8")):
            if kind == "python":
                cut += body.count(".learn(10_000)")
                body = body.replace(".learn(10_000)", ".learn(1_000)")
                code = compile(body, str(page), "exec")
                if page.name in ("README.md", "sb3.md") and ".run()" not in body:
                    exec(code, space)
        if "env" in space:
            space["env"].close()
    assert cut == 1
