"""A run that goes wrong ends with a reason, and with weights that are worth keeping."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eto_gym.errors import DataError
from eto_gym.trainers import DPOSettings, SFTSettings, make_pairs, run_dpo, run_sft
from eto_gym.trainers.run.training import TrainReport, Watch
from eto_gym.trainers.settings.base import SettingsError
from eto_gym.trajectories import Trajectory
from eto_gym.trajectories.pairs import PreferencePair

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from eto_gym.trainers.errors import TrainingError  # noqa: E402
from eto_gym.trainers.run.guards import ChosenGuard  # noqa: E402

Play = Callable[..., Trajectory]

QUICK = DPOSettings(
    learning_rate=1e-3, epochs=4, batch_size=4, micro_batch_size=4, max_length=512, warmup_ratio=0
)
WRONG = replace(QUICK, learning_rate=0.3)
SILENT = Watch(progress=False)


@pytest.fixture(scope="module")
def pairs(make_play: Play) -> list[PreferencePair]:
    agent = [make_play(n, good=False, rounds=1 + n % 3) for n in range(12)]
    made, _ = make_pairs(agent, [make_play(n, rounds=1 + n % 3) for n in range(12)])
    return made


@pytest.fixture(scope="module")
def fluent(tiny: Path, make_play: Play, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says what the chosen sides say: something that can be destroyed."""
    settings = SFTSettings(
        learning_rate=5e-3, epochs=8, batch_size=4, micro_batch_size=4, max_length=512
    )
    out = tmp_path_factory.mktemp("fluent") / "model"
    run_sft(settings, [make_play(n) for n in range(12)], model=tiny, output=out, watch=SILENT)
    return out


def chosen_logps(folder: Path, base: Path, pairs: list[PreferencePair]) -> float:
    """Return the mean log-probability per trained token of the chosen sides."""
    from transformers import AutoModelForCausalLM

    from eto_gym.trainers.data.encoding import encode_pairs
    from eto_gym.trainers.model.models import default_codec, load_tokenizer

    rows, _ = encode_pairs(default_codec(load_tokenizer(base)), pairs, max_length=512)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    total, count = 0.0, 0
    for row in rows:
        ids = torch.tensor(row.chosen.ids)
        with torch.no_grad():
            logps = model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
        logps = logps.gather(-1, ids[1:, None])[:, 0]
        mask = torch.tensor(row.chosen.mask[1:])
        total += logps[mask].sum().item()
        count += int(mask.sum())
    return total / count


def test_a_wrong_learning_rate_ends_in_a_warning_and_sound_weights(
    fluent: Path,
    pairs: list[PreferencePair],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = chosen_logps(fluent, fluent, pairs)
    unguarded = replace(WRONG, chosen_drop_limit=0.0)
    bad = run_dpo(unguarded, pairs, model=fluent, output=tmp_path / "bad", watch=SILENT)
    assert (bad.steps, bad.warnings, bad.kept_step) == (12, [], None)
    assert chosen_logps(tmp_path / "bad", fluent, pairs) < before - 1  # collapsed, and no word

    with caplog.at_level(logging.WARNING, logger="eto_gym"):
        report = run_dpo(WRONG, pairs, model=fluent, output=tmp_path / "out", watch=SILENT)
    assert report.steps < 12
    (warning,) = report.warnings
    assert "nats per token" in warning
    assert f"the weights of step {report.kept_step} are kept" in warning
    assert warning in caplog.text
    assert chosen_logps(tmp_path / "out", fluent, pairs) > before - 0.2
    stored = json.loads((tmp_path / "out" / "training.json").read_text())
    assert TrainReport.from_json(stored) == report
    again = run_dpo(WRONG, pairs, model=fluent, output=tmp_path / "out", resume=True, watch=SILENT)
    assert again == report


def test_sound_weights_take_the_place_of_kept_ones_that_cannot_be_read(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As a run that is resumed finds them, before its first step."""
    from transformers import (
        AutoModelForCausalLM,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )

    model: Any = AutoModelForCausalLM.from_pretrained(tiny)
    kept = tmp_path / ChosenGuard.FILE

    def begin(step: int, reward: float) -> ChosenGuard:
        guard = ChosenGuard(tmp_path, limit=1.0, beta=1.0, tokens=1.0, keep=True)
        state = TrainerState(global_step=step, log_history=[{"rewards/chosen": reward}])
        guard.on_train_begin(TrainingArguments(str(tmp_path)), state, TrainerControl(), model=model)
        return guard

    begin(0, 0.0)
    begin(4, 0.0).load_kept(model)
    assert not caplog.text
    kept.write_bytes(kept.read_bytes()[:99])
    with pytest.raises(DataError, match="cannot be read"):
        begin(4, -0.9).load_kept(model)
    guard = begin(4, -0.1)
    guard.load_kept(model)
    assert guard.kept_step == 4
    assert "cannot be read: the weights of the checkpoint are kept" in caplog.text


def test_a_sound_run_is_left_alone(
    fluent: Path, pairs: list[PreferencePair], tmp_path: Path
) -> None:
    settings = replace(QUICK, learning_rate=1e-4)
    free = replace(settings, chosen_drop_limit=0.0, grad_norm_limit=0.0)
    report = run_dpo(settings, pairs, model=fluent, output=tmp_path / "a", watch=SILENT)
    other = run_dpo(free, pairs, model=fluent, output=tmp_path / "b", watch=SILENT)
    assert (report.warnings, report.kept_step, report.steps) == ([], None, 12)
    assert report.metrics == other.metrics


def test_dev_scores_have_the_last_word_on_the_weights(
    fluent: Path, pairs: list[PreferencePair], tmp_path: Path
) -> None:
    """With a wrong rate the first steps do harm, and the score says which weights to keep."""

    def score(step: int, model: Any) -> float:
        return {0: 0.5, 1: 0.7}.get(step, 0.1)

    watch = Watch(progress=False, on_evaluate=score, every=1, patience=2)
    settings = replace(WRONG, chosen_drop_limit=0.0)
    report = run_dpo(settings, pairs, model=fluent, output=tmp_path / "out", watch=watch)
    assert report.steps == 3
    assert (report.best, report.kept_step) == ((1, 0.7), 1)
    (warning,) = report.warnings
    assert "did not rise above 0.7 in the last 2 evaluations" in warning
    assert "the weights of step 1 are kept" in warning


def test_a_second_number_tells_equal_scores_apart(
    fluent: Path, pairs: list[PreferencePair], tmp_path: Path
) -> None:
    """As few dev tasks often are won alike; what their episodes earned says more."""
    ties = {0: 0.1, 1: 0.3, 2: 0.2, 3: 0.3, 4: 0.9}

    def score(step: int, model: Any) -> tuple[float, float]:
        return (0.5 if step < 4 else 0.4), ties.get(step, 0.0)

    def stopping(step: int, model: Any) -> tuple[float, float]:
        if step == 3:
            raise KeyboardInterrupt
        return score(step, model)

    settings, output = replace(QUICK, save_every=2), tmp_path / "out"
    watch = Watch(progress=False, on_evaluate=stopping, every=1)
    with pytest.raises(KeyboardInterrupt):
        run_dpo(settings, pairs, model=fluent, output=output, watch=watch)
    watch = Watch(progress=False, on_evaluate=score, every=1)
    report = run_dpo(settings, pairs, model=fluent, output=output, watch=watch, resume=True)
    assert (report.best, report.kept_step) == ((1, 0.5), 1)
    assert report.scores[:5] == [(0, 0.5), (1, 0.5), (2, 0.5), (3, 0.5), (4, 0.4)]


def test_values_that_are_no_numbers_stop_the_run_at_their_step(
    tiny: Path, make_play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eto_gym.trainers.methods.sft import TurnSFTTrainer

    original = TurnSFTTrainer.compute_loss

    def poisoned(self: Any, *args: Any, **kwargs: Any) -> Any:
        loss = original(self, *args, **kwargs)
        return loss * float("nan") if self.state.global_step == 4 else loss

    settings = SFTSettings(
        epochs=3, batch_size=4, micro_batch_size=4, max_length=512, save_every=2, log_every=4
    )
    plays = [make_play(n) for n in range(12)]
    with monkeypatch.context() as patch:
        patch.setattr(TurnSFTTrainer, "compute_loss", poisoned)
        with pytest.raises(TrainingError, match=r"step 6: \w+ is nan"):
            run_sft(settings, plays, model=tiny, output=tmp_path / "out", watch=SILENT)
    assert not (tmp_path / "out").exists()
    # The poisoned step was not saved, although it was not one of those that are logged.
    assert sorted(p.name for p in (tmp_path / "out.work").glob("checkpoint-*")) == [
        "checkpoint-2",
        "checkpoint-4",
    ]
    report = run_sft(
        settings, plays, model=tiny, output=tmp_path / "out", resume=True, watch=SILENT
    )
    assert report.steps == 9


def test_an_exploding_gradient_stops_the_run_at_its_step(
    tiny: Path, make_play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eto_gym.trainers.methods.sft import TurnSFTTrainer

    original = TurnSFTTrainer.compute_loss

    def exploding(self: Any, *args: Any, **kwargs: Any) -> Any:
        factor = 1e6 if self.state.global_step == 3 else 1.0
        return original(self, *args, **kwargs) * factor

    monkeypatch.setattr(TurnSFTTrainer, "compute_loss", exploding)
    settings = SFTSettings(epochs=3, batch_size=4, micro_batch_size=4, max_length=512)
    plays = [make_play(n) for n in range(12)]
    with pytest.raises(TrainingError, match="step 4: the gradient norm exploded"):
        run_sft(settings, plays, model=tiny, output=tmp_path / "out", watch=SILENT)
    free = replace(settings, grad_norm_limit=0.0)
    assert run_sft(free, plays, model=tiny, output=tmp_path / "b", watch=SILENT).steps == 9


def test_limits_below_zero_are_refused() -> None:
    with pytest.raises(SettingsError, match="chosen_drop_limit"):
        DPOSettings(chosen_drop_limit=-1)
    with pytest.raises(SettingsError, match="grad_norm_limit"):
        SFTSettings(grad_norm_limit=-1)
