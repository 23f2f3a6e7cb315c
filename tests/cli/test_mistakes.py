"""What a user gets wrong is answered with one line that says what to do."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from eto_gym.cli.main import main
from eto_gym.cli.parsing import worded
from eto_gym.errors import unknown_name
from eto_gym.registration import check_arguments


def told(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that fails, and return the line that it says."""
    status: object = None
    try:
        status = main(argv)
    except SystemExit as end:
        status = end.code
    assert status == 2
    line = capsys.readouterr().err.strip()
    assert "\n" not in line
    assert line.startswith(f"eto-gym {argv[0]}")
    assert len(line) < 400
    return line


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("eval alfworld --polcy expert", "Did you mean --policy?"),
        ("rollout alfworld --policy=expert --limt 3", "Did you mean --limit?"),
        ("eval alfworld --policy expert --limit many", "invalid int value: 'many'"),
        (f"eval alfworld --policy expert --limit {9**400}", "expected a number of 64 bits"),
        (f"eval alfworld --policy expert --slots 1{'0' * 5000}", "invalid int value: '10000"),
        ("rollout alfworld --policy random --step-timeout 1e400", "expected a finite number"),
        ("eval alfworld --policy random --temperature nan", "expected a finite number"),
        (f"rollout alfworld --policy random --shard 0/1{'0' * 5000}", "expected --shard I/N"),
        ("eval alfworld --policy expert --env-arg backnd=own", "did you mean 'backend'?"),
        ("eval CartPole-v1 --policy expert", "CartPole-v1 is not a text environment"),
        ("play CartPole-v1", "CartPole-v1 is not a text environment"),
        ("bench CartPole-v1", "CartPole-v1 is not a text environment"),
        ("eval nomodule:Env-v0 --policy expert", "No module named 'nomodule'"),
        ("eval alfwrld --policy expert", "Did you mean 'alfworld'?"),
        ("eval alfworld --policy expert --task foo", "(4000 in all)}, got 'foo'"),
        ("eval alfworld --policy expert --limit 1 --out /proc/none/x.jsonl", "/proc/none"),
        ("eval alfworld --policy expert --shuffle-seed -1", "--shuffle-seed >= 0, got -1"),
        ("bench alfworld --seed -1", "--seed >= 0, got -1"),
        ("bench alfworld --slots 1 --slots 0", "expected --slots"),
        ("bench alfworld --workers 0 --workers 1", "expected --slots, --workers"),
        ("data build webshop --products x --attributes x --out OUT --seed -1", "--seed >= 0"),
        (f"eval alfworld --policy random --best-of {10**12}", "take fewer samples or tasks"),
        (f"rollout alfworld --policy random --samples {10**12} --out OUT", "take fewer samples"),
        ("data download webshop --mirror http://h/{name} --out OUT", "{id} in it"),
        ("data download eto-trajectories --mirror http://h/{id}", "{name} in it"),
        ("data build webshop --products x --attributes x --out OUT --limit 0", "at least 1 record"),
        ("view tests --out /proc/none/x.html", "/proc/none"),
        ("serve model --wrkers 2", "Did you mean --workers?"),
        ("serve-env alfworld --port 70000", "expected a port in 0..65535, got 70000"),
        ("serve-env alfworld --idle-timeout 0", "expected --idle-timeout > 0, got 0"),
        ("serve-env alfworld --env-arg backnd=own", "did you mean 'backend'?"),
        ("serve-env alfworld --env-arg data=/nowhere", "/nowhere"),
        ("serve-env alfworld --host 192.0.2.1 --port 0", "cannot listen on 192.0.2.1:0: Cannot"),
    ],
)
def test_one_line_says_what_is_wrong(
    command: str, words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    if command.startswith("view tests"):
        file = tmp_path / "t.json"
        file.write_text('[{"messages": [{"role": "assistant", "content": "Action: x"}]}]')
        command = command.replace("tests", str(file))
    command = command.replace("OUT", str(tmp_path / "out"))
    assert words in told(command.split(), capsys)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train eto --env alfwrld", "Did you mean 'alfworld'?"),
        ("train eto --env CartPole-v1", "not a text environment"),
        ("train eto --sft.lerning_rate 1", "Did you mean --sft.learning-rate?"),
        ("train eto --beta 1", "Did you mean --dpo.beta?"),
        ("train eto --iterations many", 'key "iterations"'),
        ("train eto --out /proc/none/x", "/proc/none"),
        ("train eto --model /nowhere --out OUT", "there is no model '/nowhere'"),
        ("train sft --data x.json --out OUT", "required: model"),
    ],
)
def test_training_says_it_too(
    command: str, words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("jsonargparse")
    assert words in told(command.replace("OUT", str(tmp_path / "out")).split(), capsys)


def test_a_wrong_environment_option_of_a_run_is_refused_by_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("jsonargparse")
    argv = ["train", "eto", "--env_options", '{"foo": 1}', "--dry-run"]
    assert "ETO/ALFWorld-v0 takes no argument 'foo'" in told(argv, capsys)


def test_help_says_nothing_about_empty_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("jsonargparse")
    with pytest.raises(SystemExit):
        main(["train", "eto", "--help"])
    shown = capsys.readouterr().out
    assert "default: )" not in shown
    assert "(default" in shown


@pytest.mark.parametrize("command", ["rollout", "eval", "train sft", "train eto"])
def test_help_shows_percent_signs_as_they_are(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("jsonargparse")
    with pytest.raises(SystemExit):
        main([*command.split(), "--help-all" if command.startswith("train") else "--help"])
    shown = capsys.readouterr().out
    assert "%%" not in shown
    assert "%(" not in shown
    if command == "train sft":
        assert "30% more time" in " ".join(shown.split())


def test_a_hint_is_given_only_where_something_is_close() -> None:
    assert "mean" not in worded("unrecognized arguments: --bogus 2", ["--out", "--limit"])
    assert worded("a\n  b", []) == "a b (see --help)"


def test_arguments_of_gym_make_itself_are_known() -> None:
    check_arguments("ETO/ALFWorld-v0", ["max_episode_steps", "disable_env_checker", "split"])


def test_long_names_are_not_listed_by_the_dozen() -> None:
    message = str(unknown_name("task", "x", [f"{i}-{'long' * 20}" for i in range(4000)]))
    assert len(message) < 300
    assert "(4000 in all)" in message
    assert "'b'" in str(unknown_name("kind", "bb", ["a", "b"]))


@pytest.mark.parametrize("command", ["serve-env alfworld", "shop"])
def test_a_port_that_is_taken_is_one_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        line = told([*command.split(), "--port", str(port)], capsys)
    assert line.endswith(f"cannot listen on 127.0.0.1:{port}: Address already in use")
