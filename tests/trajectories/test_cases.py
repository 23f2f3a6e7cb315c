"""The collected files that people have: each is read with the meaning that it states, or named."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from eto_gym.cli.main import main
from eto_gym.errors import DataError
from eto_gym.trajectories import Trajectory
from eto_gym.trajectories import formats as f
from eto_gym.trajectories.text_files import read_text, split_lines

CASES = Path(__file__).parents[3] / "shared" / "cases"

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the collected cases are not here")


class Right(NamedTuple):
    """What is right for a file.

    Attributes:
        trained: Trained turns of each record that is read.
        skipped: Numbers of the records that are not, with a word of the reason.
        notes: Words of what must be told of the others.
    """

    trained: tuple[int, ...] = (2, 2, 2)
    skipped: tuple[tuple[int, str], ...] = ()
    notes: tuple[str, ...] = ()


# Read as the plain forms are, record by record.
SAME = (
    *("base.json", "base.jsonl", "base.JSONL", "base.ndjson", "no_final_newline.jsonl"),
    *("bom.json", "bom.jsonl", "utf16.json", "utf16.jsonl", "utf16be.json", "crlf.jsonl"),
    *("jsonl_named_json.json", "list_named_jsonl.jsonl", "pretty_list_named_jsonl.jsonl"),
    *("wrapped_dict.json", "gz.jsonl.gz", "arrow_null_turns.jsonl", "arrow_null_turns2.jsonl"),
    *("user_assistant.json", "chatgpt_bing.json", "upper_from.json", "conversations_role.json"),
    *("conversation_key.json", "steps_null.jsonl", "content_list.jsonl", "null_id.json"),
    *("int_ids.json",),
)
UNNAMED = "no id, so that it is named after its prompt"
CALL = "a call of a tool, which is no text"
DATA: dict[str, Right] = {
    **dict.fromkeys(SAME, Right()),
    "content_list.jsonl": Right(notes=(UNNAMED,)),
    "null_id.json": Right(notes=(UNNAMED,)),
    "extra_steps_key.jsonl": Right(notes=("the key 'steps', which is not read",)),
    "nan.jsonl": Right(notes=("the key 'score', which is not read",)),
    "one_record_no_newline.jsonl": Right((2,)),
    "agentgym_loss.json": Right((1, 1, 1), notes=("marked not to be trained on",)),
    "openai_weight.jsonl": Right((1, 1, 1), notes=("marked not to be trained on", UNNAMED)),
    "own_rewards.json": Right((2, 2, 2, 2)),
    "system_turn.json": Right(),
    "dup_ids.json": Right(notes=("the same as an earlier record",)),
    "lone_surrogate.json": Right((2,)),
    "nul.json": Right((2,)),
    "u2028.jsonl": Right((2, 2)),
    "u2028_list.json": Right((2, 2)),
    "blank_list.json": Right(()),
    "two_humans.json": Right((1, 2), notes=("turns of one speaker in a row",)),
    "last_empty_gpt.json": Right((2, 2), notes=("an empty reply",)),
    "two_gpts.json": Right((2,), ((1, "turn 5 is a second reply in a row"),)),
    "starts_gpt.json": Right((2,), ((1, "turn 1 is a reply"),)),
    "no_action_only.json": Right((2,), ((1, "no assistant turn to learn from"),)),
    "role_dict.json": Right((2,), ((1, "turn 1: expected a speaker as 'role', got an object"),)),
    "from_list.json": Right((2,), ((1, "turn 1: expected a speaker as 'from', got a list"),)),
    "observation_roles.json": Right((), tuple((n, CALL) for n in (1, 2, 3))),
    "tool_roles.jsonl": Right((), tuple((n, "calls of tools") for n in (1, 2, 3))),
    "deep.jsonl": Right(skipped=((1, "nested too deeply"),)),
    "hugeint.json": Right((), ((1, "digits"),)),
    "hugeint.jsonl": Right((2, 2), ((1, "digits"),)),
    "float_big.jsonl": Right((), ((1, "'id', got inf"),)),
}
REFUSED = {"deep.json": "nested too deeply", "empty.json": "is empty", "empty.jsonl": "is empty"}
PAIRS = {  # messages of prompt, chosen and rejected
    **dict.fromkeys(
        (
            *("trl_explicit.json", "trl_implicit.json", "trl_strings.json", "full_in_chosen.json"),
            *("ultrafeedback.json", "llamafactory.json", "with_system_null.json"),
        ),
        (1, 1, 1),
    ),
    "chosen_ends_user.json": (1, 2, 2),
    "prompt_ends_assistant.json": None,
}
CONFIG = {"sci.yaml", "bom_crlf.yaml", "typo.yaml"}
TASKS = {"tasks_bom.txt", "tasks_crlf.txt", "tasks_utf16.txt"}


def read(name: str) -> tuple[list[Trajectory], f.ReadReport]:
    report = f.ReadReport()
    items, skipped = f.read_demonstrations(CASES / "data" / name, report=report)
    assert len(items) + len(skipped) == report.records
    return items, report


def test_every_file_has_its_right_value_here() -> None:
    known = {"data": {*DATA, *REFUSED}, "pairs": {*PAIRS}, "config": CONFIG | TASKS}
    for folder, names in known.items():
        assert {path.name for path in (CASES / folder).iterdir()} == names


@pytest.mark.parametrize("name", DATA)
def test_a_file_is_read_with_the_meaning_that_it_states(name: str) -> None:
    right = DATA[name]
    items, report = read(name)
    trained = tuple(sum(message.train for message in item.messages) for item in items)
    assert trained == right.trained
    assert [number for number, _ in report.skipped] == [number for number, _ in right.skipped]
    for (_, reason), (_, words) in zip(report.skipped, right.skipped, strict=True):
        assert words in reason
    assert len(report.notes) == len(right.notes)
    for words in right.notes:
        assert any(words in note for note in report.notes), report.notes
    if right.skipped:
        with pytest.raises(DataError, match=name):
            f.read_demonstrations(CASES / "data" / name, strict=True)
    if name in SAME:
        assert [item.messages for item in items] == [item.messages for item in read("base.json")[0]]


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_holds_nothing_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(DataError, match=REFUSED[name]) as caught:
        f.read_demonstrations(CASES / "data" / name)
    assert "\n" not in str(caught.value)


def test_only_the_turns_that_a_file_marks_are_trained() -> None:
    for name in ("agentgym_loss.json", "openai_weight.jsonl"):
        for item in read(name)[0]:
            assert [m.content.split("\n")[-1] for m in item.messages if m.train] == [
                "Action: go to desk 1"
            ]


def test_own_rewards_are_kept_and_failures_pair_with_successes() -> None:
    pytest.importorskip("torch")
    from eto_gym.trainers import make_pairs
    from eto_gym.trainers.settings.data import PairingSettings

    items = read("own_rewards.json")[0]
    told = [(item.reward, item.success) for item in items]
    assert told == [(1.0, True), (0.0, False), (0.0, False), (0.7, True)]
    pairs, _ = make_pairs(items, (), PairingSettings(contrast="self"))
    assert sorted(pair.task_id for pair in pairs) == ["t0", "t1"]


def test_identities_stay_apart() -> None:
    keys: dict[str, Any] = {
        "dup_ids.json": [("t0", 0), ("t0", 1), ("t0", 2)],
        "int_ids.json": [("0", 0), ("1", 0), ("2", 0)],
    }
    for name, expected in keys.items():
        assert [item.key for item in read(name)[0]] == expected
    assert len({item.task_id for item in read("null_id.json")[0]}) == 3


def test_a_system_turn_is_kept() -> None:
    for item in read("system_turn.json")[0]:
        assert [m.role for m in item.messages][:2] == ["system", "user"]


@pytest.mark.parametrize("name", PAIRS)
def test_a_file_of_pairs_is_read_with_the_meaning_that_it_states(name: str) -> None:
    report = f.ReadReport()
    items, _ = f.read_pairs(CASES / "pairs" / name, report=report)
    sizes = PAIRS[name]
    if sizes is None:
        assert (items, len(report.skipped)) == ([], 1)
        assert "the prompt ends with a reply" in report.skipped[0][1]
        return
    assert [(len(p.prompt), len(p.chosen), len(p.rejected)) for p in items] == [sizes]
    assert items[0].chosen != items[0].rejected
    scores = {"chosen_reward": 8.0, "rejected_reward": 2.0}
    assert items[0].info == (scores if name == "ultrafeedback.json" else {})


def test_lists_of_tasks_are_read_alike() -> None:
    found = [split_lines(read_text(CASES / "config" / name)) for name in sorted(TASKS)]
    assert found[0] == found[1] == found[2]
    assert all("/trial_" in task for task in found[0])


@pytest.mark.parametrize("name", sorted(CONFIG))
def test_settings_are_read_or_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("jsonargparse")
    words = ["train", "sft", "--model", "m", "--data", "d", "--out", "o", "--dry-run", "--config"]
    status = main([*words, str(CASES / "config" / name)])
    shown = capsys.readouterr()
    if name == "typo.yaml":
        assert status == 2
        assert "Did you mean 'learning_rate'" in shown.err
        return
    assert status == 0
    told = dict(line.strip().split(": ", 1) for line in shown.out.splitlines() if ": " in line)
    assert float(told["learning_rate"].split()[0]) == 1e-5
