"""One spelling of options, one word for one thing, presets as files, and what `--help` shows."""

from __future__ import annotations

import argparse
import functools
import logging
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eto_gym.cli.main import COMMANDS, command_parser, main
from eto_gym.cli.parsing import respelled
from eto_gym.errors import DataError

pytest.importorskip("jsonargparse")
yaml = pytest.importorskip("yaml")

from eto_gym.cli import train  # noqa: E402
from eto_gym.cli.train.options import add_options, read_command  # noqa: E402
from eto_gym.trainers.settings.base import TrainSettings  # noqa: E402
from eto_gym.trainers.settings.fields import fields_of  # noqa: E402
from eto_gym.trainers.settings.loops import ETOSettings  # noqa: E402
from eto_gym.trainers.settings.presets import (  # noqa: E402
    FOLDER,
    METHODS,
    PRESETS,
    Sourced,
    from_preset,
    settings_from,
)

Capture = pytest.CaptureFixture[str]


class Listing(argparse.ArgumentParser):
    """Keeps the options that are added, whatever their types."""

    def __init__(self, **details: Any) -> None:
        self.options: tuple[str, ...] = ()
        super().__init__(**details)

    def add_argument(self, *names: Any, **details: Any) -> Any:
        details.pop("type", None)
        self.options += names
        return super().add_argument(*names, **details)


@functools.cache
def options_of(method: str) -> tuple[str, ...]:
    parser = Listing()
    add_options(parser, train.command_of(method), everything=True)
    return parser.options


@functools.cache
def all_options() -> list[tuple[str, str]]:
    commands = [name for name in COMMANDS if name not in ("train", "data")]
    known = {name: command_parser(name).options for name in commands}
    known |= {f"train {method}": options_of(method) for method in train.METHODS}
    return [(name, option) for name, options in known.items() for option in options]


def settings(*words: str, method: str = "eto") -> Any:
    return read_command(train.command_of(method), words).settings


@pytest.fixture(autouse=True)
def nothing_deprecated() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        warnings.simplefilter("error", PendingDeprecationWarning)
        yield


def test_every_option_is_spelled_with_dashes() -> None:
    found = all_options()
    assert len(found) > 500
    assert not [pair for pair in found if "_" in pair[1]]


@pytest.mark.parametrize("option", ["--env-arg", "--env-workers", "--slots", "--seed"])
def test_one_word_for_one_thing(option: str) -> None:
    having = {command for command, name in all_options() if name == option}
    assert {"eval", "rollout", "train sb3"} <= having
    assert option == "--env-workers" or "train eto" in having


def test_commands_that_play_share_their_words() -> None:
    """What eval, rollout and the loops have in common has one name."""
    options = {name: command_parser(name).options for name in ("eval", "rollout", "expert")}
    shared = ("data", "env-arg", "history", "max-context", "max-new-tokens", "prompt-style")
    for word in (*shared, "seed", "slots", "workers"):
        for name, known in (*options.items(), ("train eto", options_of("eto"))):
            assert f"--{word}" in known, name


def test_old_spellings_are_understood_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        old = settings("--explore_samples", "3", "--eval_split=dev", "--sft.lora_r", "4",
                       "--dpo.lora_r=4", "--env_options.action_grammar", "put")  # fmt: skip
    new = settings("--explore-samples", "3", "--eval-split=dev", "--sft.lora-r", "4",
                   "--dpo.lora-r=4", "--env-arg", "action_grammar=put")  # fmt: skip
    assert old == new
    assert (new.explore_samples, new.eval_split, new.sft.lora_r) == (3, "dev", 4)
    assert new.env_options == {"action_grammar": "put"}
    assert len(caplog.records) == 5
    assert "--explore_samples is spelled --explore-samples now" in caplog.text


def test_a_value_is_no_option() -> None:
    words = ["--out", "a_b", "--x=a_b", "--", "c_d", "--no_such", "-v"]
    assert respelled(words, ["--out", "--x"], {}) == words


@pytest.mark.parametrize("word", ["None", "none", "null"])
def test_none_is_written_as_the_help_says_or_as_yaml_does(word: str, tmp_path: Path) -> None:
    given = settings("--pairing.max-extra-rounds", word, f"--pairing.max-pairs-per-task={word}")
    assert given.pairing.max_extra_rounds is given.pairing.max_pairs_per_task is None
    file = tmp_path / "settings.yaml"
    file.write_text(f"pairing: {{max_extra_rounds: {word}, cut_after_divergence: 1}}\n")
    read = settings("--config", str(file), "--pairing.cut_after_divergence", word)
    assert read.pairing.max_extra_rounds is read.pairing.cut_after_divergence is None


def test_none_is_no_value_where_there_must_be_one(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        settings("--explore-tasks", "None")
    assert "Expected a <class 'int'>. Got value: None" in capsys.readouterr().err


def test_old_names_of_other_commands(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("stable_baselines3")
    with caplog.at_level(logging.WARNING):
        old = settings("--num_envs", "3", "--split", "dev", "--eval_episodes", "5", method="sb3")
    assert (old.num_envs, old.split, old.eval_episodes) == (3, "dev", 5)
    assert "--num_envs is spelled --slots now" in caplog.text
    args = command_parser("bench").parse_args(["alfworld", "--num-envs", "2", "4"])
    assert args.num_envs == [2, 4]
    more = settings("--algo-arg", "batch_size=16", "--env-arg", "data=builtin:small", method="sb3")
    assert (more.algo_args, more.env_options) == ({"batch_size": 16}, {"data": "builtin:small"})


@pytest.mark.parametrize("method", train.LOOPS)
def test_help_shows_what_matters_and_help_all_the_rest(method: str, capsys: Capture) -> None:
    def shown(option: str) -> set[str]:
        with pytest.raises(SystemExit) as end:
            main(["train", method, option])
        assert end.value.code == 0
        return set(re.findall(r"^  (?:-h, )?(--[\w.-]+)", capsys.readouterr().out, re.MULTILINE))

    short, whole = shown("--help"), shown("--help-all")
    assert 25 <= len(short) <= 40
    assert short < whole
    assert whole == {name for name in options_of(method) if name.startswith("--")} | {"--help"}


def test_every_command_of_the_line_runs_without_a_deprecated_call() -> None:
    code = "import sys; from eto_gym.cli.main import main; sys.exit(main(sys.argv[1:]))"
    words = ["train", "eto", "--preset", "smoke", "--config", str(FOLDER / "script.yaml"), "--lora"]
    subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", "-c", code, *words, "--dry-run"],
        check=True,
        stdout=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("method", train.LOOPS)
@pytest.mark.parametrize("env", ["alfworld", "webshop", "scienceworld"])
def test_what_a_dry_run_prints_is_a_settings_file(
    method: str, env: str, capsys: Capture, tmp_path: Path
) -> None:
    words = ["--preset", "quickstart", "--env", env, "--seed", "5"]
    assert main(["train", method, *words, "--dry-run"]) == 0
    file = tmp_path / "settings.yaml"
    file.write_text(capsys.readouterr().out)
    assert settings("--config", str(file), method=method) == settings(
        *words[:3], "ETO/" + yaml.safe_load(file.read_text())["env"].split("/")[1], *words[4:],
        method=method,
    )  # fmt: skip


def test_options_come_before_files_and_these_before_the_preset(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.json"
    first.write_text(
        "preset: quickstart\nexplore-samples: 7\nsft: {epochs: 2, learning_rate: 1e-3}\n"
    )
    second.write_text('{"sft": {"epochs": 1}, "env_options": {"action_grammar": "put"}}')
    files = ("--config", str(first), "--config", str(second))
    found = settings(*files, "--slots", "3")
    assert found.preset == "quickstart"
    assert found.model == "tiny"
    assert (found.explore_samples, found.slots) == (7, 3)
    assert (found.sft.epochs, found.sft.learning_rate) == (1.0, 1e-3)
    assert isinstance(found.sft.epochs, float)  # as it is hashed
    assert found.env_options == {"action_grammar": "put"}
    assert settings(*files, "--preset", "paper").model == ETOSettings.model
    assert settings(*files, "--preset", "custom").preset == "custom"


def test_a_file_extends_another_and_depends_on_the_environment(tmp_path: Path) -> None:
    base, file = tmp_path / "base.yaml", tmp_path / "mine.yaml"
    base.write_text("extends: paper\nmodel: m\nmax_steps: {webshop: 8, otherwise: 30}\n")
    file.write_text(
        "extends: base.yaml\nsections:\n- source: a guess\n  methods: [eto]\n  seed: 3\n"
    )
    found = settings_from(ETOSettings, files=[file], env="webshop")
    assert found["max_steps"] == Sourced(8, str(base))
    assert found["seed"] == Sourced(3, "a guess")
    assert found["sft.learning_rate"].source.startswith("paper")
    assert settings_from(ETOSettings, files=[file])["max_steps"].value == 30


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("explor_samples: 3", "Did you mean 'explore_samples'"),
        ("sft: {epoch: 3}", "Did you mean 'sft.epochs'"),
        ("iterations: many", "iterations"),
        ("sft: {epochs: many}", "sft.epochs"),
        ("iterations: null", "expected a value of iterations, got null"),
        ("- 1", "expected settings by name, got list"),
        ("a: [", "no YAML"),
        ("extends: nowhere.yaml", "there is no file"),
        ("training: {lora_r: 8}", "Did you mean 'trainings'"),
        ("trainings: {lora_rank: 8}", "sft.lora_rank"),
        ("sections: {a: 1}", "expected sections to be a list"),
        ("[" * 5000, "no YAML"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(
    text: str, words: str, tmp_path: Path, capsys: Capture
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    try:
        status = main(["train", "eto", "--config", str(file), "--dry-run"])
    except SystemExit as end:
        status = int(str(end.code))
    said = capsys.readouterr().err.strip()
    assert status == 2
    assert words in said
    assert "\n" not in said


def test_presets_name_only_what_some_method_has() -> None:
    kinds = {method: train.loop_command(method).settings for method in train.LOOPS}
    known = {item.name for kind in kinds.values() for item in fields_of(kind)}
    for path in FOLDER.glob("*.yaml"):
        data = yaml.safe_load(path.read_text())
        assert set(data) <= {"extends", "sections"}, "every value has a source"
        for section in data["sections"]:
            assert section.pop("source")
            assert set(section.pop("methods", [])) <= set(kinds)
            shared = section.pop("trainings", {})
            assert set(shared) <= {item.name for item in fields_of(TrainSettings)}, path
            assert {name for name in names_in(section, known) if name not in known} == set(), path


def names_in(section: dict[str, Any], known: set[str], prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of a section; a mapping that is no part is a value."""
    for key, value in section.items():
        name = prefix + key
        if any(other.startswith(f"{name}.") for other in known):
            yield from names_in(value, known, f"{name}.")
        else:
            yield name


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("method", train.LOOPS)
def test_every_preset_works_for_every_method_and_environment(name: str, method: str) -> None:
    kind = train.loop_command(method).settings
    for env in ("alfworld", "webshop", "scienceworld", "ETO/WebShop-v0"):
        made: Any = from_preset(kind, name, method=method, env=env)
        assert made.preset == name


def test_smoke_is_small_for_every_method() -> None:
    for method in train.LOOPS:
        for item in fields_of(kind := train.loop_command(method).settings):
            if item.name in ("train_tasks", "explore_tasks", "step_tasks", "eval_tasks"):
                value = getattr(from_preset(kind, "smoke", method=method), item.name)
                assert 0 < value <= 64, (method, item.name)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_completes_commands_options_and_choices(shell: str, capsys: Capture) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("rollout", "step-dpo", "--sft.learning-rate", "qlora-7b", "webshop"):
        assert word in script


def test_bash_takes_the_script(tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", "bash"]) == 0
    file = tmp_path / "completion.sh"
    file.write_text(capsys.readouterr().out)
    code = (
        f"source {file}; COMP_WORDS=(eto-gym train eto --sft.learn); COMP_CWORD=3;"
        "_shtab_eto_gym eto-gym; echo ${COMPREPLY[@]}"
    )
    told = subprocess.run(["bash", "-c", code], check=True, capture_output=True, text=True)
    assert told.stdout.strip() == "--sft.learning-rate"


def test_an_unreadable_preset_folder_is_not_silent(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        settings_from(ETOSettings, files=[tmp_path / "none.yaml"])


def test_sections_of_a_settings_file_name_methods_that_there_are(
    tmp_path: Path, capsys: Capture
) -> None:
    assert set(train.METHODS) == {*METHODS, "sb3"}
    file = tmp_path / "s.yaml"
    for methods, told in (("[ppoo]", "Did you mean 'ppo'?"), ("ppo", "a list of names")):
        file.write_text(f"sections:\n- source: mine\n  methods: {methods}\n  seed: 3\n")
        assert main(["train", "ppo", "--config", str(file), "--dry-run"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert str(file) in line
        assert told in line


def test_a_value_for_some_environments_says_what_holds_for_the_others(
    tmp_path: Path, capsys: Capture
) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("max_steps: {webshop: 8}\n")
    words = ["train", "rft", "--env", "webshop", "--config", str(file), "--dry-run"]
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "max_steps: expected 'otherwise' beside webshop" in line
    file.write_text("max_steps: {webshop: 8, otherwise: 9}\n")
    assert main(words) == 0
    assert "max_steps: 8\n" in capsys.readouterr().out
