"""A model that gives no numbers for one conversation: it alone has no reply."""

from __future__ import annotations

import logging

import pytest

from eto_gym.agents.policy import Conversation, PolicyReply
from eto_gym.prompt import Message

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from eto_gym.agents.models.local import LocalPolicy  # noqa: E402
from tests.agents.models.small_models import TOKENIZER, make_model, policy  # noqa: E402

RULES = "The rules of this house are few. " * 3
CURSED = "%"


def talk(number: int, *, cursed: bool = False) -> list[Message]:
    return [Message("user", f"{RULES}{number}, {CURSED if cursed else 'a cup'} " + "a " * number)]


def cursed_policy(**options: object) -> LocalPolicy:
    """Return a player to whose model one token means nothing that is a number."""
    model = make_model("qwen3")
    (token,) = TOKENIZER(CURSED, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = float("nan")
    return policy(model, **options)


def ask(player: LocalPolicy, **talks: list[Message]) -> dict[str, PolicyReply]:
    replies = player.act([Conversation(key, said, seed=5) for key, said in talks.items()])
    return dict(zip(talks, replies, strict=True))


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}, {"lookup": 0}])
def test_what_is_no_number_stays_with_its_conversation(
    options: dict[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    sound = {f"sound{n}": talk(n) for n in range(4)}
    alone = {key: ask(cursed_policy(**options), **{key: said})[key].text for key, said in
             sound.items()}  # fmt: skip
    player = cursed_policy(**options)
    with caplog.at_level(logging.WARNING):
        # First in a batch, whose place others take; and in one before, whose memory others use.
        for _ in range(2):
            found = ask(player, long=talk(9, cursed=True), bad=talk(0, cursed=True), **sound)
            assert found["long"].error == found["bad"].error == "policy"
            assert {key: found[key].text for key in sound} == alone
            assert {found[key].error for key in sound} == {None}
            player.release("sound1")
            player.release("bad")
        assert ask(player, **sound)["sound2"].text == alone["sound2"]
    (warning,) = caplog.records
    assert "no numbers (NaN)" in warning.getMessage()


def test_a_start_that_is_no_number_is_not_shared() -> None:
    player = cursed_policy()
    start = [Message("user", f"{CURSED} {RULES}")]
    found = ask(player, **{str(n): [Message("user", start[0].content + f"{n}")] for n in range(3)})
    assert {reply.error for reply in found.values()} == {"policy"}
    sound = {str(n): talk(n) for n in range(3, 6)}
    alone = ask(cursed_policy(), **sound)
    found = ask(player, **sound)
    assert {key: reply.text for key, reply in found.items()} == {
        key: reply.text for key, reply in alone.items()
    }
