"""Exported files, read back by what they are for."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from eto_gym import Message
from eto_gym.cli.main import main
from eto_gym.export.atif import from_atif
from eto_gym.export.datasets import pair_row, trajectory_of, trajectory_row
from eto_gym.export.rows import preference_rows
from eto_gym.files import _umask, locked, write_json
from eto_gym.trajectories import PreferencePair, Step, Trajectory, TrajectoryStore
from eto_gym.trajectories.formats import read_demonstrations, read_pairs, to_paper_dpo
from eto_gym.trajectories.sampled import SampledTokens


def episode(task: str = "t1", **changes: Any) -> Trajectory:
    fields: dict[str, Any] = {
        "task_type": "kind",
        "messages": (
            Message("user", "Rules"),
            Message("assistant", "OK"),
            Message("user", "Task"),
            Message("assistant", "Thought: a\nAction: go", train=True),
            Message("user", "Seen \ud83c\udf0d".encode("utf-16", "surrogatepass").decode("utf-16")),
            Message("assistant", "nothing", train=True),
        ),
        "steps": (Step("go", "Seen", 0.25), Step(None, "End", 0.5)),
        "outcome": "terminated",
        "reward": 0.75,
        "success": True,
        "policy": "some/model",
        "env": {"benchmark": "WebShop", "catalog": {"products": 3}},
        "usage": {"prompt_tokens": 5, "decoded_tokens": 2},
    }
    return Trajectory(task_id=task, **{**fields, **changes})


EPISODES = [
    episode(),
    episode("t2", env={"benchmark": "ALFWorld", "backend": "own"}, reasoning=("hm", ""), usage={}),
    episode(
        "t2",
        sample=1,
        success=False,
        facts=({"finish": "stop"}, {"decoded_tokens": 3}),
        tokens=(SampledTokens(0, (1, 2), (3,), (-0.5,)), SampledTokens(3, (4,), (5,), (-1.0,))),
        player={"model": "sft-1", "staleness": 1},
    ),
    episode("t3", outcome="error", error="policy", success=False, env={}),
]


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    return save(tmp_path / "episodes.jsonl", *EPISODES)


def by_key(items: Any) -> dict[Any, Any]:
    return {(item.key, str(item.env)): item.to_json() for item in items}


def test_a_folder_of_datasets_holds_all_benchmarks_at_once(stored: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    out = tmp_path / "hub"
    assert main(["export", str(stored), "--to", "hf", "--out", str(out)]) == 0
    cache = str(tmp_path / "cache")
    loaded = datasets.load_dataset(str(out), split="train", cache_dir=cache)
    assert by_key(map(trajectory_of, loaded)) == by_key(EPISODES)
    older = [{k: v for k, v in row.items() if k not in ("player", "tokens")} for row in loaded]
    assert [trajectory_of(row).player for row in older] == [{}] * len(EPISODES)
    assert [trajectory_of(row).tokens for row in older] == [()] * len(EPISODES)
    only = datasets.load_dataset(str(out), "alfworld", split="train", cache_dir=cache)
    assert only["task_id"] == ["t2"]
    assert "2 with success" not in (out / "README.md").read_text()
    assert main(["export", str(stored), "--to", "hf", "--out", str(out)]) == 2


def save(path: Path, *episodes: Trajectory) -> Path:
    with TrajectoryStore(path) as store:
        for item in episodes:
            store.add(item)
    return path


def test_a_benchmark_of_any_name_is_a_file_of_the_folder(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    yaml = pytest.importorskip("yaml")
    names = ["../../../evil", "my/bench: x", "my-bench--x", "/abs", "..", "default", "null"]
    items = [episode(name, env={"benchmark": name}) for name in names]
    out = tmp_path / "a" / "b" / "hub"
    assert main(
        ["export", str(save(tmp_path / "t.jsonl", *items)), "--to", "hf", "--out", str(out)]
    ) == 0  # fmt: skip
    files = sorted(path for path in tmp_path.rglob("*.parquet"))
    assert {path.parent for path in files} == {out / "data"}
    card = yaml.safe_load((out / "README.md").read_text().split("---")[1])
    configs = {c["config_name"]: c["data_files"] for c in card["configs"]}
    assert configs.pop("default") == "data/*.parquet"
    assert sorted(out / file for file in configs.values()) == files
    assert not any(path.name.startswith(".") for path in files)
    found = [parquet.read_table(path).to_pylist() for path in files]
    assert sorted(row["task_id"] for (row,) in found) == sorted(names)


def test_export_says_what_it_read_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "Action: x"}]
    one = {"id": "q", "foo": 1, "messages": turns}
    worse = {"role": "assistant", "content": "Action: y"}
    pair = {"prompt": turns[:1], "chosen": turns[1:], "rejected": [worse], "foo": 1}
    for name, record in (("c", one), ("p", pair)):
        file = tmp_path / f"{name}.json"
        write_json(file, [record, {**record, "bar": 2}, 3])
        out = str(tmp_path / f"{name}-out.json")
        main(["export", str(file), "--to", "trl", "--out", out])
        told = capsys.readouterr().err
        assert f"{file}: skipped 1 records" in told
    assert main(["show", str(tmp_path / "c.json"), "--list"]) == 0
    told = capsys.readouterr().err
    main(["export", str(tmp_path / "c.json"), "--to", "sharegpt", "--out", str(tmp_path / "o")])
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in told.splitlines() if " of 3 records: " in line]
    assert set(told.splitlines()) <= set(lines)


@pytest.mark.parametrize("form", ["trl", "sharegpt", "atif", "hf"])
def test_half_a_character_is_written_or_refused_in_a_line(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = episode("odd")
    messages = (*odd.messages[:-1], Message("assistant", "Action: \ud83d x", train=True))
    odd = episode("odd", messages=messages)
    file, out = save(tmp_path / "t.jsonl", episode(), odd), tmp_path / "out"
    code = main(["export", str(file), "--to", form, "--out", str(out)])
    if form != "hf":
        assert code == 0
        text = "".join(p.read_text() for p in ([out] if out.is_file() else sorted(out.iterdir())))
        assert "\\ud83d x" in text
        return
    pytest.importorskip("pyarrow")
    assert code == 2
    assert "'odd'" in capsys.readouterr().err
    assert not out.exists()


def test_a_number_that_parquet_cannot_hold_is_refused_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow")
    file = save(tmp_path / "t.jsonl", episode(), episode("vast", seed=2**70))
    assert main(["export", str(file), "--to", "hf", "--out", str(tmp_path / "out")]) == 2
    assert "'vast'" in capsys.readouterr().err


def test_numbers_that_json_does_not_know_are_null_in_its_texts() -> None:
    endless = ({"seconds": float("nan")}, {"seconds": float("inf")})
    row = trajectory_row(episode(facts=endless))
    assert json.loads(row["facts"]) == [{"seconds": None}, {"seconds": None}]
    pair = PreferencePair("t", (), (), (), info={"margin": float("nan")})
    assert json.loads(pair_row(pair)["info"]) == {"margin": None}


def test_atif_loses_nothing(stored: Path, tmp_path: Path) -> None:
    assert main(["export", str(stored), "--to", "atif", "--out", str(tmp_path / "atif")]) == 0
    values = [json.loads(path.read_bytes()) for path in sorted((tmp_path / "atif").iterdir())]
    assert [from_atif(value).to_json() for value in values] == [e.to_json() for e in EPISODES]
    steps = values[0]["steps"]
    assert [step["source"] for step in steps] == ["user", "agent", "user", "agent", "agent"]
    assert [step["step_id"] for step in steps] == [1, 2, 3, 4, 5]
    call = steps[3]["tool_calls"][0]
    assert call["arguments"] == {"action": "go"}
    assert steps[3]["observation"]["results"] == [
        {"source_call_id": call["tool_call_id"], "content": "Seen"}
    ]
    assert "tool_calls" not in steps[4], "no action was found"


def test_what_fails_half_way_leaves_nothing(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eto_gym.export import atif

    def written(path: Path, value: Any) -> None:
        path.write_text("x")
        raise OSError("the disk is full")

    monkeypatch.setattr(atif, "write_json", written)
    command = ["export", str(stored), "--to", "atif", "--out", str(tmp_path / "out")]
    assert main(command) != 0
    assert {path.name for path in tmp_path.iterdir()} == {"episodes.jsonl"}
    monkeypatch.undo()
    assert main(command) == 0


def test_what_a_killed_export_left_is_removed_and_a_running_one_is_not(
    stored: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    killed, running, other = (
        tmp_path / f".{n}" for n in ("out.part-7", "out.part-8", "outer.part-7")
    )
    for folder in (killed, running, other):
        folder.mkdir()
        (folder / "rows").write_text("half")
    with locked(running) as free:
        assert free
        assert main(["export", str(stored), "--to", "atif", "--out", str(out)]) == 0
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == [
        ".out.part-8",
        ".outer.part-7",
    ]
    assert out.stat().st_mode & 0o777 == 0o777 & ~_umask()


@pytest.mark.parametrize("failures", [False, True])
def test_conversations_for_imitation(stored: Path, tmp_path: Path, failures: bool) -> None:
    more = ["--failures"] if failures else []
    out = tmp_path / "sharegpt.json"
    assert main(["export", str(stored), "--to", "sharegpt", "--out", str(out), *more]) == 0
    back, skipped = read_demonstrations(out)
    assert [item.messages for item in back] == [EPISODES[0].messages] * (3 if failures else 2)
    assert not skipped
    out = tmp_path / "trl.json"
    assert main(["export", str(stored), "--to", "trl", "--out", str(out), *more]) == 0
    rows = json.loads(out.read_bytes())
    assert len(rows) == (6 if failures else 4), "one for each reply of the agent's own"
    assert [turn["content"] for turn in rows[0]["prompt"]] == ["Rules", "OK", "Task"]
    assert rows[1]["completion"] == [{"role": "assistant", "content": "nothing"}]


def pair(chosen: list[str], rejected: list[str]) -> PreferencePair:
    """Replies and answers in turn."""

    def side(texts: list[str]) -> tuple[Message, ...]:
        return tuple(
            Message("user", text) if i % 2 else Message("assistant", text, train=True)
            for i, text in enumerate(texts)
        )

    return PreferencePair("t", (Message("user", "Task"),), side(chosen), side(rejected))


PAIRS = [
    pair(["a", "seen", "b", "won", "c"], ["a", "seen", "x", "lost", "y"]),
    pair(["a"], ["b", "lost", "c"]),
    pair(["a", "seen", "b"], ["a"]),
    pair(["a", "seen", "b"], ["a", "other", "c"]),
]


def test_a_preference_is_where_the_sides_part() -> None:
    left: Counter[str] = Counter()
    rows = preference_rows(PAIRS, left)
    said = [[turn["content"] for turn in row["prompt"]] for row in rows]
    assert said == [["Task", "a", "seen"], ["Task"]]
    sides = [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows]
    assert sides == [("b", "x"), ("a", "b")]
    assert left.total() == 2


def test_preferences_round_trip(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    source = tmp_path / "pairs.json"
    write_json(source, [to_paper_dpo(each) for each in PAIRS])
    for form in ("trl", "sharegpt"):
        out = tmp_path / f"{form}.json"
        assert main(["export", str(source), "--to", form, "--out", str(out)]) == 0
        back, _ = read_pairs(out)
        assert [(p.prompt[-1].content, p.chosen[0].content) for p in back] == [
            ("seen", "b"),
            ("Task", "a"),
        ]
    out = tmp_path / "hub"
    assert main(["export", str(source), "--to", "hf", "--out", str(out)]) == 0
    loaded = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert [len(row["chosen"]) for row in loaded] == [5, 1, 3, 3]
    assert main(["export", str(source), "--to", "atif", "--out", str(tmp_path / "a")]) == 2


def test_trls_own_trainer_masks_all_but_the_agents_words(tmp_path: Path) -> None:
    """What its DPOTrainer trains on is the two replies, and nothing of the environment."""
    datasets = pytest.importorskip("datasets")
    trl = pytest.importorskip("trl")
    pytest.importorskip("torch")
    from tests.agents.models.small_models import TOKENIZER, make_model

    rows = preference_rows(PAIRS[:2], Counter())
    for row in rows:
        del row["id"]
    config = trl.DPOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=2,
        max_steps=1,
        report_to="none",
        use_cpu=True,
        bf16=False,
        max_length=None,
    )
    trainer = trl.DPOTrainer(
        make_model("llama"),
        ref_model=make_model("llama"),
        args=config,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=TOKENIZER,
    )
    (batch,) = list(trainer.get_train_dataloader())
    trained = [
        TOKENIZER.decode(ids[mask.bool()])
        for ids, mask in zip(batch["input_ids"], batch["completion_mask"], strict=True)
    ]
    assert len(trained) == 4
    for text, word in zip(sorted(trained), sorted("baxb"), strict=True):
        assert word in text
        assert "seen" not in text
        assert "Task" not in text


@pytest.mark.interop
def test_inspect_reads_its_log(stored: Path, tmp_path: Path) -> None:
    pytest.importorskip("inspect_ai")
    from inspect_ai.log import list_eval_logs, read_eval_log, read_eval_log_sample

    from eto_gym.export.inspect_log import trajectory_of as read

    out = tmp_path / "logs"
    assert main(["export", str(stored), "--to", "inspect", "--out", str(out)]) == 0
    infos = list_eval_logs(str(out))
    logs = [read_eval_log(info) for info in infos]
    samples = [sample for log in logs for sample in log.samples or ()]
    assert by_key(map(read, samples)) == by_key(EPISODES)
    scored = {s.id: s.scores["success"].value for s in samples if s.scores and s.epoch == 1}
    assert scored == {"t1": 1.0, "t2": 1.0}
    assert [s.error is not None for s in samples if s.id == "t3"] == [True]
    # As its viewer opens them: heads first, without the samples, and then a sample alone.
    heads = [read_eval_log(info, header_only=True) for info in infos]
    assert not any(head.samples for head in heads)
    assert [head.results.total_samples for head in heads if head.results] == [
        len(log.samples or ()) for log in logs
    ]
    assert {head.eval.task for head in heads} == {log.eval.task for log in logs}
    for info, log in zip(infos, logs, strict=True):
        for sample in log.samples or ():
            alone = read_eval_log_sample(info, id=sample.id, epoch=sample.epoch)
            assert [m.text for m in alone.messages] == [m.text for m in sample.messages]


@pytest.mark.interop
def test_inspect_scores_an_agent_that_outgrew_its_model(tmp_path: Path) -> None:
    pytest.importorskip("inspect_ai")
    from inspect_ai.log import list_eval_logs, read_eval_log

    store = TrajectoryStore(tmp_path / "episodes.jsonl")
    for item in (episode(), episode("full", outcome="error", error="context", success=False)):
        store.add(item)
    store.close()
    out = tmp_path / "logs"
    assert main(["export", str(store.path), "--to", "inspect", "--out", str(out)]) == 0
    (log,) = map(read_eval_log, list_eval_logs(str(out)))
    assert log.results is not None
    assert (log.results.total_samples, log.results.completed_samples) == (2, 1)
    means = {score.name: score.metrics["mean"].value for score in log.results.scores}
    assert means == {"success": 0.5, "reward": 0.75}
    told = {s.id: (s.error is None, bool(s.scores)) for s in log.samples or ()}
    assert told == {"t1": (True, True), "full": (False, True)}


def test_that_nothing_is_left_to_write_is_said_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = save(tmp_path / "failed.jsonl", episode(success=False, reward=0.0))
    assert main(["export", str(failed), "--to", "trl", "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert told.strip().endswith(
        "nothing to write; left out: 1 episodes without success (--failures writes them)"
    )
