"""What cannot be rendered, or has no room, is told before anything is played."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eto_gym.agents.rollout.engine import Rollout, plan_episodes
from eto_gym.cli.main import main
from eto_gym.errors import EtoGymError
from eto_gym.history import check_room
from eto_gym.prompt import Message
from eto_gym.trainers.settings.loops import PPOLoopSettings, RFTSettings
from tests.toy import make_corridor

pytest.importorskip("torch")

from eto_gym.agents.models.codec import ChatCodec
from eto_gym.agents.models.local import LocalPolicy
from eto_gym.agents.models.room import check_prompt
from eto_gym.agents.models.tiny import CHAT_TEMPLATE, build_model, save_tiny, train_tokenizer

HEAD = (Message("user", "Do as you are told."), Message("assistant", "OK."))
NO_AGENT = (
    "{% for m in messages %}{% if m.role == 'assistant' and loop.length > 3 %}"
    "{{ raise_exception('no assistant here') }}{% endif %}{{ '<|' + m.role + '|>' + m.content }}"
    "{{ '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""Renders what a codec is probed with, and rejects longer conversations."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = train_tokenizer(["Do as you are told. OK. go open a"], vocab_size=300)
    model = build_model(
        tokenizer, hidden_size=8, layers=1, heads=1, kv_heads=1, mlp_size=8, context=4096
    )
    return save_tiny(model, tokenizer, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def codec(folder: Path) -> ChatCodec:
    from eto_gym.agents.models.loading import load_tokenizer

    return ChatCodec(load_tokenizer(str(folder)))


def test_exchanges_that_cannot_fit_are_refused_by_their_number() -> None:
    assert check_room("last:33", 100) == "last:33"
    assert check_room("last:34", None) == "last:34"
    assert check_room("full", 2) == "full"
    for history in ("last:34", "state:34", "last:34-thoughts"):
        with pytest.raises(EtoGymError, match="Take a K of 33 or"):
            check_room(history, 100)
    with pytest.raises(EtoGymError, match="longer context"):
        check_room("last:1", 10, before=8)


def test_the_largest_k_is_counted_with_the_models_own_tokens(codec: ChatCodec) -> None:
    def least(count: int) -> int:
        """Count the tokens of a prompt with so many exchanges of one letter."""
        talk = [*HEAD, Message("user", "a")]
        talk += [Message("assistant", "a"), Message("user", "a")] * count
        return len(codec.generation_prompt(talk))

    context = least(7) + 1  # room for one token after seven exchanges
    check_prompt(codec, HEAD, "last:7", context=context)
    with pytest.raises(EtoGymError, match=r"leaves no room.* Take a K of 7 or") as caught:
        check_prompt(codec, HEAD, "last:8", context=context)
    assert "\n" not in str(caught.value)
    with pytest.raises(EtoGymError, match="the prompt leaves no room for a task"):
        check_prompt(codec, HEAD, "full", context=least(0))


def test_a_rollout_refuses_before_it_plays(codec: ChatCodec, folder: Path) -> None:
    policy = LocalPolicy.from_pretrained(str(folder), max_new_tokens=4)
    rollout = Rollout(make_corridor, policy, history="last:4000")
    with pytest.raises(EtoGymError, match="'last:4000' leaves no room"):
        next(rollout.play(plan_episodes(["door-0/0"])))
    policy = LocalPolicy.from_pretrained(str(folder), chat_template=NO_AGENT)
    with pytest.raises(EtoGymError, match="no assistant here"):
        next(Rollout(make_corridor, policy).play(plan_episodes(["door-0/0"])))


def test_a_conversation_that_grew_too_long_is_told_of_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = LocalPolicy.from_pretrained(str(folder), max_new_tokens=64, context=350)
    rollout = Rollout(make_corridor, policy, history="last:2", slots=2)
    played = list(rollout.play(plan_episodes(["door-0/0", "door-1/1"])))
    assert [t.error for t in played] == ["context"] * 2
    (said,) = [r.getMessage() for r in caplog.records if "no room" in r.getMessage()]
    assert "history last:2: a K below 2, a shorter prompt style" in said


@pytest.mark.parametrize("settings", [RFTSettings, PPOLoopSettings])
def test_settings_of_loops_refuse_what_leaves_no_room(settings: Any) -> None:
    with pytest.raises(EtoGymError, match="leaves no room"):
        settings(history="last:2000", max_context=4096)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--history last:100 --max-context 200", "'last:100' leaves no room"),
        ("--history last:1000", "'last:1000' leaves no room"),
        ("--history some", "expected history"),
        ("--history full --max-context 60", "the prompt leaves no room"),
        ("--sft.chat-template TEMPLATE", "no assistant here"),
        ("--sft.chat-template no/such/file", "no/such/file"),
    ],
)
@pytest.mark.parametrize("command", ["eval", "rft --dry-run"])
def test_the_command_line_says_so_in_one_line(
    command: str,
    words: str,
    says: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    template = tmp_path / "template.jinja"
    template.write_text(NO_AGENT)
    words = words.replace("TEMPLATE", str(template))
    if command == "eval":
        words = words.replace("--sft.chat-template ", "--policy-arg chat_template=")
        argv = [command, "alfworld", "--policy", str(folder), "--limit", "1", *words.split()]
    else:
        argv = ["train", *command.split(), "--env", "alfworld", "--model", str(folder)]
        argv += words.split()
    assert main(argv) in (1, 2)
    said = capsys.readouterr()
    assert says in said.err
    assert sum("eto-gym" in line for line in said.err.splitlines()) == 1
    assert not list(tmp_path.glob("runs/**/trajectories.jsonl"))


@pytest.mark.parametrize("command", ["rollout", "train rft"])
def test_so_do_the_commands_that_are_alike(
    command: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["alfworld", "--policy"] if command == "rollout" else ["--env", "alfworld", "--model"]
    out = tmp_path / "out"
    argv = [*command.split(), *model, str(folder), "--history", "last:1000", "--out", str(out)]
    assert main(argv) == 2
    assert "'last:1000' leaves no room" in capsys.readouterr().err
    assert not (out / "report.json").exists()


def test_a_good_template_is_no_obstacle(folder: Path, tmp_path: Path) -> None:
    good = tmp_path / "good.jinja"
    good.write_text(CHAT_TEMPLATE)
    argv = ["train", "rft", "--env", "alfworld", "--model", str(folder), "--dry-run"]
    assert main([*argv, "--sft.chat-template", str(good)]) == 0
