from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eto_gym.errors import DataError, UnknownNameError
from eto_gym.history import bounded
from eto_gym.trainers import DPOSettings, SFTSettings, make_pairs, run_dpo, run_sft
from eto_gym.trainers.data.encoding import encode_trajectories
from eto_gym.trainers.run.training import Watch
from eto_gym.trainers.settings.base import SettingsError
from eto_gym.trajectories import Trajectory
from tests.trainers.processes import fork_one, speak_into

torch = pytest.importorskip("torch")

Play = Callable[..., Trajectory]

QUICK = SFTSettings(
    learning_rate=3e-3, epochs=1, batch_size=8, micro_batch_size=4, max_length=512, warmup_ratio=0
)


@pytest.fixture(scope="module")
def plays(make_play: Play) -> list[Trajectory]:
    return [make_play(n, rounds=1 + n % 4) for n in range(18)]


def _codec(tiny: Path) -> Any:
    from eto_gym.trainers.model.models import default_codec, load_tokenizer

    return default_codec(load_tokenizer(tiny))


def _losses(
    tiny: Path, plays: list[Trajectory], output: Path, settings: SFTSettings
) -> list[float]:
    report = run_sft(settings, plays, model=tiny, output=output, watch=Watch(progress=False))
    return [entry["loss"] for entry in report.metrics]


@pytest.mark.parametrize("train_on", ["assistant", "all"])
def test_first_loss_equals_hand_computed_double(
    tiny: Path, plays: list[Trajectory], tmp_path: Path, train_on: str
) -> None:
    from transformers import AutoModelForCausalLM

    few = plays[:8]
    settings = replace(QUICK, train_on=train_on)
    loss = _losses(tiny, few, tmp_path / "out", settings)[0]
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float64)
    total, count = 0.0, 0
    for play in few:
        ids, mask = _codec(tiny).encode(play.messages)
        logps = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        for position in range(1, len(ids)):
            if mask[position] or train_on == "all":
                total -= logps[position - 1, ids[position]].item()
                count += 1
    assert loss == pytest.approx(total / count, rel=1e-5)


def test_micro_batches_do_not_change_the_losses(
    tiny: Path, plays: list[Trajectory], tmp_path: Path
) -> None:
    settings = replace(QUICK, epochs=2)
    whole = _losses(tiny, plays, tmp_path / "8x1", replace(settings, micro_batch_size=8))
    parts = _losses(tiny, plays, tmp_path / "1x8", replace(settings, micro_batch_size=1))
    assert len(whole) == 6  # 18 conversations: two whole batches and a small one, twice
    assert whole == pytest.approx(parts, rel=1e-4)


def test_same_seed_gives_the_same_losses(
    tiny: Path, plays: list[Trajectory], tmp_path: Path
) -> None:
    first = _losses(tiny, plays, tmp_path / "a", QUICK)
    assert first == _losses(tiny, plays, tmp_path / "b", QUICK)
    assert first != _losses(tiny, plays, tmp_path / "c", replace(QUICK, seed=1))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_it_learns_and_what_is_written_says_what_was_learnt(
    tiny: Path, make_play: Play, tmp_path: Path, optimizer: str
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    settings = replace(QUICK, epochs=20, batch_size=2, optimizer=optimizer, learning_rate=5e-3)
    plays = [make_play(n, rounds=2) for n in range(6)]
    report = run_sft(
        settings, plays, model=tiny, output=tmp_path / "out", watch=Watch(progress=False)
    )
    assert report.metrics[0]["loss"] > 5
    assert report.final_loss < 0.2
    assert report.steps == 60
    assert not (tmp_path / "out.work").exists()
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    codec = _codec(tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template
    for play in plays:
        prompt = codec.generation_prompt(play.messages[:3])
        ids = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=20)
        assert codec.decode_reply(ids[0, len(prompt) :].tolist()) == play.messages[3].content


def test_tokens_and_cuts_are_reported(tiny: Path, make_play: Play) -> None:
    codec = _codec(tiny)
    long, short = make_play(0, rounds=9), make_play(1, rounds=1)
    rows, report = encode_trajectories(codec, [long, short], max_length=512)
    assert report.tokens == sum(len(row.ids) for row in rows)
    assert report.trained_tokens == sum(sum(row.mask) for row in rows)
    assert report.longest == len(rows[0].ids)
    assert (report.rows, report.cut, report.dropped) == (2, 0, 0)

    limit = len(rows[0].ids) - 1
    with pytest.raises(DataError, match="1 conversations are longer"):
        encode_trajectories(codec, [long, short], max_length=limit)
    cut, report = encode_trajectories(codec, [long, short], max_length=limit, truncation="cut")
    assert (report.rows, report.cut, report.cut_turns) == (2, 1, 1)
    assert cut[0].ids == rows[0].ids[: len(cut[0].ids)]
    assert cut[0].mask[-1]
    tight = len(rows[1].ids)
    cut, report = encode_trajectories(codec, [long, short], max_length=tight, truncation="cut")
    assert len(cut) + report.dropped == 2
    assert all(len(row.ids) <= tight for row in cut)


def test_a_bounded_history_is_trained_on_as_it_was_read(tiny: Path, make_play: Play) -> None:
    codec = _codec(tiny)
    play = make_play(0, rounds=6)
    short = replace(play, history="last:2")
    rows, report = encode_trajectories(codec, [short], max_length=512)
    assert (report.rows, len(rows)) == (4, 4), "three replies to a growing prompt, then one each"
    replies = [codec.encode(play.messages[: i + 1]) for i in (3, 5, 7)]
    assert rows[0].ids == replies[-1].input_ids
    for row, last in zip(rows[1:], (9, 11, 13), strict=True):
        read = bounded(play.messages[:last], 2, "last:2")
        prompt = codec.generation_prompt(read)
        assert row.ids[: len(prompt)] == prompt
        assert not any(row.mask[: len(prompt)])
        assert all(row.mask[len(prompt) :])
        assert codec.decode_reply(row.ids[len(prompt) :]) == play.messages[last].content
    whole, _ = encode_trajectories(codec, [play], max_length=512)
    assert sum(row.trained for row in rows) == whole[0].trained
    wide, _ = encode_trajectories(codec, [replace(play, history="last:9")], max_length=512)
    assert wide == whole, "nothing was left out"

    tight = max(len(row.ids) for row in rows) - 1
    with pytest.raises(DataError, match="longer than max_length"):
        encode_trajectories(codec, [short], max_length=tight)
    bare = replace(short, messages=play.messages[:1], steps=play.steps[:1])
    with pytest.raises(DataError, match="1 steps and 0 replies"):
        encode_trajectories(codec, [bare], max_length=512)


def test_sharing_prefixes_of_step_rows_changes_no_loss(
    tiny: Path, make_play: Play, tmp_path: Path
) -> None:
    short = [replace(make_play(n, rounds=5), history="last:1") for n in range(4)]
    shared = _losses(tiny, short, tmp_path / "a", replace(QUICK, share_prefix="on"))
    apart = _losses(tiny, short, tmp_path / "b", replace(QUICK, share_prefix="off"))
    assert shared == pytest.approx(apart, rel=1e-4)


def test_nothing_to_train_on_is_refused(tiny: Path, make_play: Play) -> None:
    bare = replace(make_play(0), messages=make_play(0).messages[:3])
    with pytest.raises(DataError, match=r"no conversation to train on \(1 without"):
        encode_trajectories(_codec(tiny), [bare], max_length=512)


def test_foreign_output_folder_is_not_overwritten(
    tiny: Path, plays: list[Trajectory], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    with pytest.raises(DataError, match="not overwritten"):
        run_sft(QUICK, plays, model=tiny, output=tmp_path / "out")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "precious"


def test_best_weights_are_kept_and_training_stops(
    tiny: Path, plays: list[Trajectory], tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    seen: dict[int, Any] = {}

    def score(step: int, model: Any) -> float:
        assert not model.training
        torch.rand(3)  # must not disturb the training
        seen[step] = model.get_input_embeddings().weight.detach().clone()
        return {0: 0.1, 1: 0.5, 2: 0.9}.get(step, 0.3)

    report = run_sft(
        replace(QUICK, epochs=5),
        plays,
        model=tiny,
        output=tmp_path / "out",
        watch=Watch(progress=False, on_evaluate=score, every=1, patience=2),
    )
    assert report.best == (2, 0.9)
    assert report.scores == [(0, 0.1), (1, 0.5), (2, 0.9), (3, 0.3), (4, 0.3)]
    assert report.steps == 4
    weights = load_file(tmp_path / "out" / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(weights, seen[2])
    assert not torch.equal(weights, seen[4])


def test_settings_document_themselves() -> None:
    from dataclasses import fields

    for item in fields(SFTSettings):
        assert item.metadata["help"], item.name
    with pytest.raises(UnknownNameError, match="Did you mean 'adamw'"):
        SFTSettings(optimizer="adam")
    with pytest.raises(SettingsError, match="multiple"):
        SFTSettings(batch_size=10, micro_batch_size=4)
    with pytest.raises(SettingsError, match="lora_r"):
        SFTSettings(qlora=True)


def test_importing_the_package_imports_no_torch() -> None:
    code = "import eto_gym.trainers, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _train_into_files(make_play: Play, tiny: Path, folder: Path) -> None:
    speak_into(folder)
    base: dict[str, Any] = {
        "epochs": 1, "batch_size": 4, "micro_batch_size": 2, "max_length": 512, "warmup_ratio": 0,
    }  # fmt: skip
    data = [make_play(n) for n in range(4)]
    run_sft(SFTSettings(**base), data, model=tiny, output=folder / "sft")
    pairs, _ = make_pairs([make_play(n, good=False) for n in range(4)], data)
    run_dpo(DPOSettings(**base, lora_r=2), pairs, model=folder / "sft", output=folder / "dpo")


def test_the_terminal_stays_clean(make_play: Play, tiny: Path, tmp_path: Path) -> None:
    """Nothing but our bar may reach a user's terminal, and no bar where there is none."""
    assert fork_one(_train_into_files, make_play, tiny, tmp_path) == 0
    assert (tmp_path / "stdout").read_text() == ""
    assert (tmp_path / "stderr").read_text() == ""
    assert (tmp_path / "dpo" / "adapter_model.safetensors").exists()


@pytest.mark.slow
def test_the_terminal_stays_clean_while_libraries_are_imported(tiny: Path, tmp_path: Path) -> None:
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from tests.trainers.conftest import play
from eto_gym.trainers import *
from pathlib import Path
data = [play(n) for n in range(4)]
base = dict(epochs=1, batch_size=4, micro_batch_size=2, max_length=512, warmup_ratio=0)
run_sft(SFTSettings(**base), data, model={str(tiny)!r}, output={str(tmp_path / "sft")!r})
pairs, _ = make_pairs([play(n, good=False) for n in range(4)], data)
run_dpo(DPOSettings(**base, lora_r=2), pairs, model={str(tmp_path / "sft")!r},
        output={str(tmp_path / "dpo")!r})
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "")


def test_warmup_rises_from_above_zero_and_cosine_ends_near_it(
    tiny: Path, plays: list[Trajectory], tmp_path: Path
) -> None:
    settings = replace(QUICK, epochs=4, warmup_ratio=0.25, learning_rate=1e-3)
    report = run_sft(
        settings, plays, model=tiny, output=tmp_path / "out", watch=Watch(progress=False)
    )
    rates = [entry["learning_rate"] for entry in report.metrics]
    assert rates[:4] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3])
    done = 8 / 9
    assert rates[-1] == pytest.approx(1e-3 * 0.5 * (1 + math.cos(math.pi * done)))
    stored = json.loads((tmp_path / "out" / "training.json").read_text())
    assert stored["settings"]["warmup_ratio"] == 0.25


def test_metrics_are_written_while_training_runs(
    tiny: Path, tmp_path: Path, make_play: Any, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("eto_gym.progress.FIRST_LINE", 0.001)
    output, seen = tmp_path / "model", []

    def look(step: int, model: Any) -> float:
        path = tmp_path / "model.work" / "metrics.jsonl"
        seen.append([json.loads(line) for line in path.read_text().splitlines()] if step else [])
        return 0.0

    settings = SFTSettings(epochs=2.0, batch_size=4, micro_batch_size=4, max_length=512)
    with caplog.at_level(logging.INFO, logger="eto_gym"):
        report = run_sft(
            settings,
            [make_play(i) for i in range(8)],
            model=tiny,
            output=output,
            watch=Watch(on_evaluate=look, every=2),
        )
    # A step is logged after it is scored.
    assert [[row["step"] for row in rows] for rows in seen] == [[], [1], [1, 2, 3]]
    kept = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert kept == report.metrics
    assert seen[-1] == kept[:3]
    spoken = [r.getMessage() for r in caplog.records if r.name == "eto_gym.progress"]
    assert any(line.startswith("SFT: step 4/4, loss ") and "tokens/s" in line for line in spoken)
