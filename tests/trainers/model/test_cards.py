"""Model cards: what a folder tells where it is shown."""

from __future__ import annotations

from eto_gym.trainers.model.cards import model_card


def test_a_card_tells_base_method_data_and_scores() -> None:
    report = {
        "method": "dpo",
        "settings": {"learning_rate": 1e-6, "epochs": 3.0, "lora": True, "seed": 0, "stop": None},
        "steps": 12,
        "final_loss": 0.512345,
        "fingerprint": "abc",
        "best": (8, 0.75),
        "data": {"rows": 40},
        "seconds": 3.5,
    }
    card = model_card(report, base="Qwen/Qwen2.5-0.5B-Instruct", adapter=True)
    assert card.startswith("---\n")
    head, _, body = card[4:].partition("---\n")
    assert "library_name: peft" in head
    assert "base_model: Qwen/Qwen2.5-0.5B-Instruct" in head
    for row in (
        "| final loss | 0.5123 |",
        "| fingerprint | `abc` |",
        "| score on dev tasks | 0.75 (step 8) |",
        "| rows | 40 |",
        "| learning rate | 1e-06 |",
        "| lora | True |",
    ):
        assert row in body
    assert "3.5" not in body, "a card holds no times"


def test_a_folder_of_this_machine_is_no_name_of_the_hub() -> None:
    base = "/home/me/secret place/mo|del"
    card = model_card({"method": "sft"}, base=base, adapter=False)
    assert "base_model" not in card
    assert "secret place" not in card
    assert "`mo/del`" in card
    assert "library_name: transformers" in model_card({}, base=None, adapter=False)
