"""Dev tasks are played as the model will play that training makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eto_gym.errors import EtoGymError
from eto_gym.prompt import Message
from eto_gym.trainers.loops.play_stages import PlayStages
from eto_gym.trainers.loops.train_stages import TrainStages
from eto_gym.trainers.model.models import load_tokenizer
from eto_gym.trainers.settings.loops import ETOSettings
from eto_gym.trainers.settings.methods import DPOSettings
from tests.toy import CORRIDOR

pytest.importorskip("torch")
pytest.importorskip("trl")


def new_score(model: Path, folder: Path) -> Any:
    """Return what scores a model on two dev tasks of the corridor."""
    settings = ETOSettings(
        env=CORRIDOR, data="", model=str(model), prompt_style="none", progress=False,
        dev_tasks=2, dev_split="train",
    )  # fmt: skip
    play = PlayStages(settings, folder / "run")
    play.open()
    train = TrainStages(play)
    return train.watch(train.start_model(evaluated=False), settings.dpo).on_evaluate


TALK = [Message("user", "You are at door 0.")]
MARKED = (
    "{% for m in messages %}NAME{{ mark }}<|{{ m['role'] }}|>{{ m['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}NAME{{ mark }}<|assistant|>{% endif %}"
)


@pytest.mark.parametrize(
    ("of_run", "of_training", "name"),
    [
        ({}, {}, ""),
        ({"chat_template": "run"}, {}, "run"),
        ({}, {"chat_template": "dpo"}, "dpo"),
        (
            {"chat_template": "run", "template_kwargs": {"mark": "!"}},
            {"chat_template": "dpo"},
            "run!",
        ),
        (
            {},
            {"chat_template": "dpo", "template_kwargs": {"mark": "?"}},
            "dpo?",
        ),
    ],
)
def test_dev_games_are_read_by_the_template_of_the_run_or_of_the_training(
    of_run: dict[str, Any], of_training: dict[str, Any], name: str, tiny: Path, tmp_path: Path
) -> None:
    values = [dict(of_run), dict(of_training)]
    for value in values:
        if file := value.get("chat_template"):
            value["chat_template"] = str(tmp_path / f"{file}.jinja")
            Path(value["chat_template"]).write_text(MARKED.replace("NAME", file))
    settings = ETOSettings(
        env=CORRIDOR, data="", model=str(tiny), prompt_style="none", progress=False,
        dev_tasks=2, dev_split="train", dpo=DPOSettings(**values[1]), **values[0],
    )  # fmt: skip
    play = PlayStages(settings, tmp_path / "run")
    play.open()
    train = TrainStages(play)
    start = train.start_model(evaluated=False)
    seeded: Any = play.settings
    score: Any = train.watch(start, seeded.dpo).on_evaluate
    codec = score._codec
    read = load_tokenizer(tiny).decode(codec.generation_prompt(TALK))
    assert read == f"{name}<|user|>You are at door 0.<|end|>{name}<|assistant|>"
    player: Any = play.policy_maker(start, "eval", temperature=0.0)()
    if "chat_template" not in of_training:  # else the model has it only once it is trained
        assert player.codec.generation_prompt(TALK) == codec.generation_prompt(TALK)


@pytest.mark.parametrize("failing", [1, 2])
def test_dev_episodes_that_fail_to_run_are_no_failures_of_the_model(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, failing: int,
) -> None:  # fmt: skip
    from eto_gym.agents.models.local import LocalPolicy
    from eto_gym.agents.policy import PolicyReply
    from eto_gym.trainers.model.models import load_for_training

    model = load_for_training(tiny, DPOSettings())
    score = new_score(tiny, tmp_path)
    lost = {episode.task_id for episode in score._episodes[:failing]}

    def act(_: Any, conversations: Any) -> list[PolicyReply]:
        if any(task in c.key for c in conversations for task in lost):
            raise RuntimeError("out of memory")
        return [PolicyReply("Thought: here.\nAction: open") for _ in conversations]

    monkeypatch.setattr(LocalPolicy, "act", act)
    if failing == 2:
        with pytest.raises(EtoGymError, match=r"step 3: 2 of 2 dev episodes failed \(policy 2\)"):
            score(3, model)
    else:
        assert score(3, model)[0] in (0.0, 1.0), "of the one that was played"
        assert "step 3: 1 of 2 dev episodes failed (policy 1), and do not count" in caplog.text
