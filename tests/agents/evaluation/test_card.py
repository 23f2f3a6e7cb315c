"""The card of a score, and what `compare` makes of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from eto_gym.agents.evaluation.card import MATTERS, card_lines, model_digest, results, score_card
from eto_gym.agents.evaluation.comparison import compare_rows, load_rows, render
from eto_gym.agents.evaluation.habits import LOOP, ONE_ACTION, WAITED, habits, tricks
from eto_gym.cli.main import main
from eto_gym.conversation import PARSER_VERSION, parse_reply
from eto_gym.prompt import Message
from eto_gym.trajectories import Step, Trajectory, TrajectoryStore


def played(
    *actions: str | None, rewards: list[float] | None = None, task: str = "t", **changes: Any
) -> Trajectory:
    rewards = rewards or [0.0] * (len(actions) - 1) + [1.0]
    messages = [Message("user", "Prompt"), Message("assistant", "OK."), Message("user", "Room.")]
    steps = []
    for i, (action, reward) in enumerate(zip(actions, rewards, strict=True)):
        messages += [Message("assistant", f"Action: {action}", True), Message("user", f"After {i}")]
        steps.append(Step(action, f"After {i}", reward))
    values: dict[str, Any] = {
        "task_id": task,
        "task_type": "",
        "messages": tuple(messages[:-1]),
        "steps": tuple(steps),
        "outcome": "terminated",
        "reward": sum(rewards),
        "success": sum(rewards) >= 1,
        "policy": "m",
        "env": {"backend": "b", "backend_version": 1, "data": "d", "split": "test", "x": 1},
    }
    return Trajectory(**{**values, **changes})


ABOUT = {
    **{"env": "ETO/ALFWorld-v0", "env_kwargs": {}, "prompt_style": "one-shot", "seed": 0},
    **{"policy": "endpoint:http://user:secret@localhost:8000/v1?key=secret", "model": "m"},
    "temperature": 0.0,
}


def report(path: Path, name: str, episodes: list[Trajectory], **facts: Any) -> Path:
    card = {**score_card(episodes, ABOUT), **facts}
    file = path / f"{name}.report.json"
    file.write_text(json.dumps({"card": card, "results": results(episodes)}))
    return file


def test_the_card_names_what_the_score_depends_on() -> None:
    card = score_card([played("look", "take")], ABOUT)
    assert card["engine"] == "b"
    assert card["engine_version"] == 1
    assert card["step_limit"] == 40
    assert card["history"] == "full"
    assert card["env_settings"] == {"x": 1}
    assert card["sampling"]["max_new_tokens"] == 128, "defaults are on the card too"
    assert card["server"] == "localhost:8000/v1"
    assert "secret" not in json.dumps(card)
    assert set(MATTERS) <= set(card)
    assert json.loads(json.dumps(card)) == card


OTHER_VALUES = {
    "engine": "other",
    "engine_version": 2,
    "data": "other",
    "env_settings": {"x": 2},
    "split": "dev",
    "tasks_digest": "0123456789abcdef",
    "samples": 4,
    "grammar": "put",
    "history": "last:4",
    "prompt_style": "none",
    "prompt_digest": "0123456789abcdef",
    "admissible_actions": True,
    "parser": 0,
    "step_limit": 20,
    "sampling": {"temperature": 0.7},
    "env": "ETO/WebShop-v0",
}


@pytest.mark.parametrize("fact", MATTERS)
def test_scores_that_differ_in_one_fact_are_told_apart(
    fact: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = report(tmp_path, "a", [played("take")])
    b = report(tmp_path, "b", [played("take")], **{fact: OTHER_VALUES[fact]})
    assert main(["compare", str(a), str(b)]) == 2
    told = capsys.readouterr().err
    assert f"b: {fact} " in told
    assert sum(name in told for name in MATTERS if name not in fact and fact not in name) == 0
    assert main(["compare", str(a), str(b), "--mark"]) == 0
    assert f"b is not comparable: {fact} " in capsys.readouterr().out


@pytest.mark.parametrize("fact", ["model", "model_digest", "server", "policy"])
def test_what_is_compared_may_differ_and_is_told(
    fact: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = report(tmp_path, "a", [played("take")])
    b = report(tmp_path, "b", [played("take")], **{fact: "other"})
    assert main(["compare", str(a), str(b)]) == 0
    assert f"b differs in: {fact} " in capsys.readouterr().out


def test_data_with_the_same_ids_and_other_contents_is_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = played("take")
    messages = (*other.messages[:2], Message("user", "Another room."), *other.messages[3:])
    moved = Trajectory.from_json(
        {
            **other.to_json(),
            "messages": [
                {"role": m.role, "content": m.content, "train": m.train} for m in messages
            ],
        }
    )
    a, b = report(tmp_path, "a", [other]), report(tmp_path, "b", [moved])
    assert main(["compare", str(a), str(b)]) == 2
    assert "data_digest" in capsys.readouterr().err


def test_an_error_is_no_other_data(tmp_path: Path) -> None:
    a = [played("take", task="a"), played("take", task="b")]
    lost = Trajectory("b", "", (), (), "error", 0.0, False, "worker")
    rows = load_rows([report(tmp_path, "a", a), report(tmp_path, "b", [a[0], lost])])
    assert compare_rows(rows)[1].matters == {}


def test_who_outgrows_the_model_has_lost(tmp_path: Path) -> None:
    a = [played("take", task="a"), played("take", task="b")]
    full = Trajectory("b", "", (), (), "error", 0.0, False, "context")
    rows = load_rows([report(tmp_path, "a", a), report(tmp_path, "b", [a[0], full])])
    compared = compare_rows(rows)[1]
    assert compared.matters == {}
    assert compared.success.mean == 0.5
    assert compared.paired is not None
    assert (compared.paired.episodes, compared.paired.lost) == (2, 1)


def test_a_script_has_no_sampling_to_contradict(tmp_path: Path) -> None:
    a = report(tmp_path, "a", [played("take")], sampling=None, admissible_actions=None)
    b = report(tmp_path, "b", [played("take")])
    assert compare_rows(load_rows([a, b]))[1].matters == {}


def test_gains_are_tested_on_the_same_episodes(tmp_path: Path) -> None:
    before = [played("take", rewards=[0.0], task=f"t{i}") for i in range(8)]
    after = [played("take", task=f"t{i}") for i in range(8)]
    rows = load_rows([report(tmp_path, "a", before), report(tmp_path, "b", after)])
    test = compare_rows(rows)[1].paired
    assert test is not None
    assert (test.gained, test.lost) == (8, 0)
    assert test.p == pytest.approx(2 / 2**8)


def test_reports_without_a_card_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.json").write_text("{}")
    assert main(["compare", str(tmp_path / "a.json")]) == 2
    assert "no report with a card" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "none.json")]) == 2
    assert "there is no file or folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        *[("task", 3), ("sample", "0"), ("sample", 0.5), ("success", 1), ("success", "yes")],
        *[("reward", "1"), ("reward", None), ("reward", float("nan")), ("reward", 10**400)],
        *[("steps", "3"), ("steps", -1), ("error", 3), ("start", None)],
        *[("tricks", "loop"), ("tricks", [1]), ("tricks", None)],
    ],
)
def test_results_of_another_kind_are_refused_by_name(
    name: str, wrong: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = report(tmp_path, "a", [played("take")])
    told = json.loads(file.read_text())
    told["results"][0][name] = wrong
    file.write_text(json.dumps(told))
    assert main(["compare", str(file), str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"expected {name!r} of a result as" in line


@pytest.mark.parametrize(
    "policies",
    [None, [], {}, "eto", ["eto"], [{"card": {}, "stage": "x"}], [{"policy": 3}], {"../../x": {}}]
    + [[{"policy": "ETO", "card": card, "stage": stage}] for card, stage in (({}, 3), ("", "x"))]
    + [[{"policy": "ETO", "card": {}, "stage": "../x"}]],
)
def test_a_run_folder_that_names_no_score_is_refused(
    policies: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.json").write_text(json.dumps({"policies": policies}))
    assert main(["compare", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_policies_that_share_a_file_do_not_take_each_others_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = TrajectoryStore(tmp_path / "both.jsonl")
    for policy, reward in (("a", 0.0), ("b", 1.0)):
        for i in range(6):
            store.add(played("take", rewards=[reward], task=f"t{i}", policy=policy))
    rows = load_rows([tmp_path / "both.jsonl"])
    assert [row.name for row in rows] == ["both: a", "both: b"]
    assert [compared.success.mean for compared in compare_rows(rows)] == [0.0, 1.0]


def test_the_run_folder_of_another_trainer_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stable-Baselines3's runs keep a file of trajectories per policy."""
    for name, reward in (("random", 0.0), ("greedy", 1.0)):
        store = TrajectoryStore(tmp_path / "evaluation" / f"{name}.jsonl")
        for i in range(6):
            store.add(played("take", rewards=[reward], task=f"t{i}"))
    (tmp_path / "report.json").write_text(json.dumps({"policies": {"random": {}, "greedy": {}}}))
    assert main(["compare", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"{tmp_path.name}: greedy" in out
    (row,) = [line for line in out.splitlines() if "greedy" in line and "0.031" in line]
    assert [cell.strip() for cell in row.split("|")][-4:-1] == ["6", "0", "0.031"]


def test_real_evaluations_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def evaluate(name: str, *options: str) -> str:
        out = tmp_path / f"{name}.jsonl"
        command = ["eval", "alfworld", "--policy", "expert", "--limit", "3", "--split", "dev"]
        assert main([*command, "--out", str(out), *options]) == 0
        return str(tmp_path / f"{name}.report.json")

    first = evaluate("first")
    others = {
        "prompt_style": evaluate("style", "--prompt-style", "none"),
        "history": evaluate("history", "--history", "last:2"),
        "step_limit": evaluate("limit", "--env-arg", "max_episode_steps=39"),
        "split": evaluate("split", "--split", "test"),
        "tasks_digest": evaluate("tasks", "--limit", "2"),
        "env_settings": evaluate("observation", "--env-arg", "observation=eto"),
        "grammar": evaluate("grammar", "--env-arg", "action_grammar=put"),
        "samples": evaluate("samples", "--samples", "2"),
    }
    assert main(["compare", first, evaluate("again")]) == 0
    capsys.readouterr()
    for fact, other in others.items():
        assert main(["compare", first, other]) == 2, fact
        assert f" {fact} " in capsys.readouterr().err
    out = tmp_path / "c.json"
    assert main(["compare", first, *others.values(), "--mark", "--json", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["comparable"] for row in rows] == [True] + [False] * len(others)


def test_trajectories_are_compared_too(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with TrajectoryStore(tmp_path / f"{name}.jsonl") as store:
            store.add(played("take"))
    rows = load_rows([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])
    assert "| b " in render(compare_rows(rows))


@pytest.mark.parametrize(
    ("actions", "rewards", "found"),
    [
        (["look", "open", "take"], None, ()),
        (["push"] * 6, None, (ONE_ACTION, WAITED)),
        (["push", "pull"] * 4, None, (LOOP,)),
        (["go", "open", "take"] * 3 + ["put"], None, (LOOP,)),
        (["go 1", "go 2", "go 3", "go 1", "go 2", "go 3", "put"], None, ()),
        (["light", "wait", "pour"], [0.0, 0.5, 0.5], (WAITED,)),
        (["light", "wait", "pour"], [0.5, 0.0, 0.5], ()),
        (["push"] * 6, [0.0] * 6, ()),
    ],
)
def test_gains_by_tricks_are_named(
    actions: list[str], rewards: list[float] | None, found: tuple[str, ...]
) -> None:
    assert tricks(played(*actions, rewards=rewards)) == found


def test_suspicious_gains_are_counted(tmp_path: Path) -> None:
    before = [played("a", rewards=[0.0], task=f"t{i}") for i in range(4)]
    after = [played(*["push"] * 6, task=f"t{i}") for i in range(3)] + [played("a", task="t3")]
    rows = load_rows([report(tmp_path, "a", before), report(tmp_path, "b", after)])
    compared = compare_rows(rows)
    assert compared[1].suspicious == {ONE_ACTION: 3, WAITED: 3}
    assert "! b, suspicious gains: one action repeated 3" in render(compared)


def test_habits_are_counted() -> None:
    facts: tuple[dict[str, Any], ...] = (
        {"finish": "length", "admissible": False},
        {"finish": "stop", "admissible": True},
        {},
    )
    t = played("look", "look", None, facts=facts, outcome="truncated")
    t = Trajectory.from_json({**t.to_json(), "steps": [
        {"action": "look", "observation": "Room.", "reward": 0.0},
        {"action": "look", "observation": "Nothing happens.", "reward": 0.0},
        {"action": None, "observation": "Error", "reward": 1.0},
    ]})  # fmt: skip
    counted = habits([t])
    assert (counted.replies, counted.truncated, counted.cut, counted.unparsable) == (3, 1, 1, 1)
    assert (counted.inadmissible, counted.admissible_known) == (1, 2)
    assert (counted.repeated, counted.without_effect) == (1, 2)


def test_that_every_reply_was_cut_is_said() -> None:
    t = played("a", "b", facts=({"finish": "length"}, {"finish": "length"}))
    assert "EVERY REPLY WAS CUT at 128 tokens" in "\n".join(card_lines(score_card([t], ABOUT)))
    t = played("a", "b", facts=({"finish": "length"}, {"finish": "stop"}))
    assert "EVERY" not in "\n".join(card_lines(score_card([t], ABOUT)))


def test_an_engine_without_a_name_leaves_no_gap() -> None:
    card = {**score_card([played("a")], ABOUT), "engine": None, "engine_version": None}
    assert ", engine unknown, split " in card_lines(card)[0]


def test_a_models_digest_follows_its_files(tmp_path: Path) -> None:
    assert model_digest(tmp_path / "none") is None
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 100)
    first = model_digest(tmp_path)
    (tmp_path / "training.json").write_text('{"seconds": 1}')
    assert model_digest(tmp_path) == first, "how it was made is not what it is"
    (tmp_path / "model.safetensors").write_bytes(b"\1" * 100)
    assert model_digest(tmp_path) != first


def test_a_short_name_has_the_digest_of_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETO_GYM_DATA", str(tmp_path))
    assert model_digest("smollm2") is None
    folder = tmp_path / "models" / "smollm2"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert model_digest("smollm2") == model_digest(folder) is not None


def test_a_change_of_the_parser_raises_its_version() -> None:
    replies = [
        "Thought: a\nAction: look", "Action: look", "action : `go to desk 1`.", "**Action:** look",
        "I would look.", "Action:\nlook", "Action:\n```\nlook\n```", 'Action: "look"', "Action: ",
        "Thought: Action: a\nAction: b", "Action: a\nAction: b", "I act. Action: look now.",
        "<think>Action: a</think>Action: b", "<think>Action: a", "> Action: look",
        "Action:\nThought: b", "Action: *look*", "ACTION\uff1a look",
    ]  # fmt: skip
    read = json.dumps([str(parse_reply(reply)) for reply in replies])
    assert (PARSER_VERSION, hashlib.sha256(read.encode()).hexdigest()[:12]) == (
        1,
        "d1900dced558",
    ), "parse_reply reads a reply differently: raise PARSER_VERSION, and put the digest here"


def test_alfworlds_own_engine_is_called_own() -> None:
    card = {**score_card([played("a")], ABOUT), "engine": "engine", "engine_version": 1}
    assert ", engine own 1, split " in card_lines(card)[0]
