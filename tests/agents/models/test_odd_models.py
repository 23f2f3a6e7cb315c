"""Models whose parts do not fit each other are refused in one line, by every command."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from eto_gym.agents.rollout.ray_cluster import import_ray
from eto_gym.cli.main import main
from eto_gym.trajectories import TrajectoryStore
from tests.agents.models import odd_models as odd
from tests.toy import CORRIDOR

torch = pytest.importorskip("torch")
for package in ("transformers", "peft", "jsonargparse", "trl"):
    pytest.importorskip(package)

Capture = pytest.CaptureFixture[str]
FAMILIES = ("bloom", "mpt", "mamba")
SERVES = importlib.util.find_spec("fastapi") is not None
"""Whether `eto-gym serve` gets as far as looking at the model."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("odd")
    odd.small_embedding(folder / "small")
    odd.few_positions(folder / "gpt2")
    odd.resized_adapter(folder)
    for family in FAMILIES:
        odd.of_family(family, folder / family)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    told = [
        {"from": "human", "value": "You keep a lighthouse. " + "go north " * 12},
        {"from": "gpt", "value": "Action: look"},
    ]
    path = tmp_path_factory.mktemp("data") / "data.json"
    path.write_text(json.dumps([{"id": f"t{n}", "conversations": told} for n in range(2)]))
    return path


def refused(words: list[Any], capsys: Capture) -> str:
    """Run a command that fails, and return the one line that it says."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    err = capsys.readouterr().err.strip()
    assert err.startswith(f"eto-gym {words[0]}: ")
    assert "\n" not in err
    return err


def train(model: Path, data: Path, out: Path) -> list[Any]:
    short = ["--max-steps", 1, "--batch-size", 2, "--micro-batch-size", 2, "--progress", "false"]
    return ["train", "sft", "--model", model, "--data", data, "--out", out, *short]


def play(command: str, model: Path, out: Path, *more: Any) -> list[Any]:
    short = ["--limit", 1, "--max-new-tokens", 2, "--out", out]
    return [command, CORRIDOR, "--policy", model, *short, *more]


def test_a_token_without_a_row_in_the_embedding_is_named(
    models: Path, data: Path, tmp_path: Path, capsys: Capture
) -> None:
    for words in (
        train(models / "small", data, tmp_path / "out"),
        play("eval", models / "small", tmp_path / "e.jsonl"),
        play("rollout", models / "small", tmp_path / "r.jsonl"),
        *([["serve", models / "small"]] if SERVES else []),
    ):
        err = refused(words, capsys)
        assert "<|new_" in err
        assert "274 rows" in err
        assert "resize_token_embeddings" in err


def test_tokens_that_nothing_leads_to_do_no_harm(models: Path) -> None:
    from eto_gym.agents.models.sizes import check_vocabulary
    from eto_gym.errors import DataError

    tokenizer = odd.tokenizer_of()
    rows = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|unused|>"]})
    check_vocabulary(tokenizer, rows, "m")
    tokenizer.chat_template += "{{ '<|unused|>' }}"
    with pytest.raises(DataError, match="unused"):
        check_vocabulary(tokenizer, rows, "m")
    check_vocabulary(tokenizer, rows + 1, "m")
    check_vocabulary(tokenizer, None, "m")
    tokenizer = odd.tokenizer_of(added=1)  # text may hold this one
    with pytest.raises(DataError, match="extra_0"):
        check_vocabulary(tokenizer, rows, "m")
    with pytest.raises(DataError, match="belongs to another model"):
        check_vocabulary(odd.tokenizer_of(), 200, "m")


def test_conversations_beyond_the_table_of_positions_are_refused(
    models: Path, data: Path, tmp_path: Path, capsys: Capture
) -> None:
    err = refused(train(models / "gpt2", data, tmp_path / "out"), capsys)
    assert "64 positions" in err
    assert "--max-length" in err
    more = ["--max-context", 65]
    assert "64 positions" in refused(play("eval", models / "gpt2", tmp_path / "e", *more), capsys)
    assert "no room" in refused(play("rollout", models / "gpt2", tmp_path / "n.jsonl"), capsys)
    # Within them a conversation that gets too long is the agent's failure.
    bare = play("rollout", models / "gpt2", tmp_path / "r.jsonl", "--prompt-style", "none")
    assert main([str(w) for w in bare]) == 0
    assert [t.error for t in TrajectoryStore(tmp_path / "r.jsonl").load()] == ["context"]


def test_positions_that_are_computed_have_no_table(models: Path) -> None:
    from transformers import AutoModelForCausalLM

    from eto_gym.agents.models.sizes import positions_of

    known = {"gpt2": 64, "base": None, "bloom": None, "mpt": 2048, "mamba": None}
    for name, positions in known.items():
        model = AutoModelForCausalLM.from_pretrained(models / name)
        assert positions_of(model) == positions, name


def test_an_adapter_on_a_resized_embedding_is_used_as_it_is(
    models: Path, data: Path, tmp_path: Path, capsys: Capture
) -> None:
    from transformers import AutoModelForCausalLM

    from eto_gym.agents.models.loading import load_model

    adapter = models / "adapter"
    assert main(["merge", str(adapter), str(tmp_path / "merged")]) == 0
    merged: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.config.vocab_size == merged.get_input_embeddings().weight.shape[0] == 276
    ids = torch.arange(260, 276)[None]  # the new tokens are among them
    whole: Any = load_model(str(adapter), device="cpu")
    with torch.no_grad():
        assert torch.allclose(merged(ids).logits, whole(ids).logits, atol=1e-5)
    for words in (
        train(adapter, data, tmp_path / "out"),
        [*train(adapter, data, tmp_path / "again"), "--lora-r", 2],
        play("rollout", adapter, tmp_path / "r.jsonl"),
    ):
        assert main([str(word) for word in words]) == 0, words
    # A trained adapter keeps the embedding that it brought along.
    embedding: Any = load_model(str(tmp_path / "again")).get_input_embeddings()
    assert embedding.weight.shape[0] == 276
    if SERVES:
        assert "eto-gym merge" in refused(["serve", adapter], capsys)


def test_an_adapter_that_does_not_fit_is_one_line(
    models: Path, data: Path, tmp_path: Path, capsys: Capture
) -> None:
    broken = tmp_path / "adapter"
    broken.mkdir()
    for path in (models / "adapter").iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    config = json.loads((broken / "adapter_config.json").read_text())
    config["r"] = 3
    (broken / "adapter_config.json").write_text(json.dumps(config))
    for words in (
        ["merge", broken, tmp_path / "merged"],
        train(broken, data, tmp_path / "out"),
        play("rollout", broken, tmp_path / "r.jsonl"),
    ):
        assert "size mismatch" in refused(words, capsys)
    (broken / "adapter_model.safetensors").write_bytes(b"\xff" * 64)
    assert "is damaged" in refused(["merge", broken, tmp_path / "merged"], capsys)
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_families_without_a_longest_conversation(
    family: str, models: Path, data: Path, tmp_path: Path, capsys: Capture
) -> None:
    model, out = models / family, tmp_path / "r.jsonl"
    if family == "mpt":  # it has one, by another name
        assert main([str(word) for word in play("rollout", model, out)]) == 0
        return
    if family == "mamba":
        assert "eto-gym serve" in refused(play("eval", model, out), capsys)
        return
    assert "--max-context N" in refused(play("eval", model, out), capsys)
    assert main([str(word) for word in play("rollout", model, out, "--max-context", 9000)]) == 0
    assert TrajectoryStore(out).load()[0].error is None


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        ({"n_positions": 64}, 64),
        ({"max_seq_len": 9, "max_position_embeddings": None}, 9),
        ({"text_config": {"max_position_embeddings": 7}}, 7),
        ({"max_position_embeddings": "many"}, None),
        ({}, None),
    ],
)
def test_an_endpoint_reads_what_families_call_their_longest(
    config: dict[str, Any], longest: int | None, tmp_path: Path
) -> None:
    from eto_gym.agents.endpoint.client import context_of

    (tmp_path / "config.json").write_text(json.dumps(config))
    assert context_of(str(tmp_path)) == longest


def test_a_long_path_for_temporary_files_is_one_line_under_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    ray = import_ray(None)  # as the command does: what listens is settled at the first import

    def init(**_: Any) -> None:  # what Ray says there, before it starts anything
        raise OSError("validate_socket_filename failed: AF_UNIX path length cannot exceed 107")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    words = ["rollout", CORRIDOR, "--policy", "random", "--launcher", "ray", "--limit", 1]
    assert "set TMPDIR" in refused([*words, "--out", tmp_path / "r.jsonl"], capsys)
