"""Preference pairs as people have them."""

from __future__ import annotations

from typing import Any

import pytest

from eto_gym import DataError
from eto_gym.trajectories import formats as f

GO: list[Any] = [{"role": "user", "content": "go"}]
LOOK: list[Any] = [{"role": "assistant", "content": "Thought: a\nAction: look"}]
JUMP: list[Any] = [{"role": "assistant", "content": "Thought: b\nAction: jump"}]
EXPLICIT: dict[str, Any] = {"prompt": GO, "chosen": LOOK, "rejected": JUMP}

PAIRS: dict[str, dict[str, Any]] = {
    "texts": {"prompt": "go", "chosen": LOOK[0]["content"], "rejected": JUMP[0]["content"]},
    "prompt in the sides": {"prompt": GO, "chosen": GO + LOOK, "rejected": GO + JUMP},
    "implicit prompt": {"chosen": GO + LOOK, "rejected": GO + JUMP},
    "ultrafeedback": {"prompt": "go", "chosen": GO + LOOK, "rejected": GO + JUMP, "messages": None},
    "llama factory": {
        "conversations": [{"from": "human", "value": "go"}],
        "chosen": {"from": "gpt", "value": LOOK[0]["content"]},
        "rejected": {"from": "gpt", "value": JUMP[0]["content"]},
    },
    "padding": {**EXPLICIT, "system": None, "tools": None, "id": None, "messages": None},
}


@pytest.mark.parametrize("name", PAIRS)
def test_forms_of_pairs_that_mean_the_same_are_read_alike(name: str) -> None:
    assert f.read_pair(PAIRS[name]) == f.read_pair(EXPLICIT)


def test_scores_of_a_pair_become_rewards() -> None:
    pair = f.read_pair({**EXPLICIT, "score_chosen": 8.0, "score_rejected": 2})
    assert pair.info == {"chosen_reward": 8.0, "rejected_reward": 2.0}
    with pytest.raises(DataError, match="below"):
        f.read_pair({**EXPLICIT, "score_chosen": 1, "score_rejected": 2})


def test_a_shared_beginning_of_the_sides_ends_before_they_part() -> None:
    more = [{"role": "user", "content": "seen"}, *JUMP]
    pair = f.read_pair({"chosen": GO + LOOK + more, "rejected": GO + LOOK})
    assert [m.content for m in pair.prompt] == ["go"]
    pair = f.read_pair(
        {"chosen": GO + LOOK + more, "rejected": GO + LOOK + more[:1] + LOOK, "system": None}
    )
    assert len(pair.prompt) == 3


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({**EXPLICIT, "prompt": GO + LOOK}, "ends with a reply"),
        ({**EXPLICIT, "prompt": None}, "do not begin alike"),
        ({**EXPLICIT, "rejected": GO}, "rejected must start"),
        ({**EXPLICIT, "rejected": None}, "lacks"),
        ({**EXPLICIT, "chosen": 7}, "chosen: expected a list"),
        ({**EXPLICIT, "chosen": LOOK + JUMP}, "chosen: turn 2 is a second reply"),
        ({**EXPLICIT, "conversations": GO}, "contradict"),
        ({**EXPLICIT, "history": "last:1", "head": 0, "chosen_states": [3]}, "chosen_states"),
    ],
)
def test_pairs_that_are_not_certain_are_refused_by_name(record: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        f.read_pair(record)
