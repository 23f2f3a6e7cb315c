from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eto_gym.errors import DataError
from eto_gym.trainers import DPOSettings, SFTSettings, make_pairs, run_dpo, run_sft
from eto_gym.trainers.run.training import Watch
from eto_gym.trajectories import Trajectory
from tests.trainers.checkpoints import die_after_checkpoint
from tests.trainers.processes import fork_one

torch = pytest.importorskip("torch")

from eto_gym.trainers.run.base_trainer import Workspace  # noqa: E402

Play = Callable[..., Trajectory]

BASE: dict[str, Any] = {
    "learning_rate": 1e-3,
    "epochs": 3,
    "batch_size": 4,
    "micro_batch_size": 2,
    "max_length": 512,
    "save_every": 2,
}
METHODS = ("sft", "dpo")


def _run(method: str, make_play: Play, tiny: Path, output: Path, **options: Any) -> Any:
    optimizer = options.pop("optimizer", "adamw")
    resume = options.pop("resume", False)
    watch = Watch(progress=False, **options)
    experts = [make_play(n, rounds=1 + n % 4) for n in range(14)]
    if method == "sft":
        settings = SFTSettings(**BASE, optimizer=optimizer)
        return run_sft(settings, experts, model=tiny, output=output, resume=resume, watch=watch)
    pairs, _ = make_pairs([make_play(n, good=False) for n in range(14)], experts)
    return run_dpo(
        DPOSettings(**BASE, optimizer=optimizer),
        pairs,
        model=tiny,
        output=output,
        resume=resume,
        watch=watch,
    )


class _Killed(Exception):
    pass


def _die_at(step: int) -> Callable[[int, Any], float]:
    def score(now: int, model: Any) -> float:
        if now == step:
            raise _Killed
        return float(now)

    return score


@pytest.mark.parametrize(
    ("method", "optimizer"), [("sft", "adamw"), ("dpo", "adamw"), ("sft", "muon")]
)
def test_interrupted_run_ends_with_the_same_weights(
    make_play: Play, tiny: Path, tmp_path: Path, method: str, optimizer: str
) -> None:
    from safetensors.torch import load_file

    whole = _run(method, make_play, tiny, tmp_path / "whole", optimizer=optimizer)
    parts = tmp_path / "parts"
    with pytest.raises(_Killed):
        _run(
            method,
            make_play,
            tiny,
            parts,
            optimizer=optimizer,
            on_evaluate=_die_at(7),
            every=1,
        )
    assert not parts.exists()
    report = _run(
        method,
        make_play,
        tiny,
        parts,
        optimizer=optimizer,
        resume=True,
        on_evaluate=lambda step, model: float(step),
        every=1,
    )
    assert report.steps == whole.steps == 12
    assert [e["loss"] for e in report.metrics] == [e["loss"] for e in whole.metrics]
    assert report.scores == [(n, float(n)) for n in range(13)]
    first = load_file(tmp_path / "whole" / "model.safetensors")
    second = load_file(parts / "model.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("method", METHODS)
def test_finished_run_is_not_repeated(
    make_play: Play, tiny: Path, tmp_path: Path, method: str
) -> None:
    first = _run(method, make_play, tiny, tmp_path / "out")
    stamp = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
    assert _run(method, make_play, tiny, tmp_path / "out", resume=True) == first
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == stamp


def test_incomplete_checkpoint_is_passed_over(make_play: Play, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(_Killed):
        _run("sft", make_play, tiny, tmp_path / "out", on_evaluate=_die_at(7), every=1)
    work = tmp_path / "out.work"
    assert sorted(p.name for p in work.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]
    # As if killed while checkpoint 6 was being written.
    (work / "checkpoint-6" / "complete").unlink()
    (work / "checkpoint-6" / "optimizer.pt").write_bytes(b"half")
    report = _run("sft", make_play, tiny, tmp_path / "out", resume=True)
    assert [entry["step"] for entry in report.metrics] == list(range(1, 13))


@pytest.mark.parametrize("name", ["optimizer.pt", "model.safetensors", "trainer_state.json"])
def test_a_damaged_checkpoint_is_named_and_passed_over(
    make_play: Play, tiny: Path, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(_Killed):
        _run("sft", make_play, tiny, tmp_path / "out", on_evaluate=_die_at(7), every=1)
    last = tmp_path / "out.work" / "checkpoint-6"
    content = bytearray((last / name).read_bytes())
    content[len(content) // 2] ^= 1
    (last / name).write_bytes(content)
    scored: list[int] = []

    def score(step: int, model: Any) -> float:
        scored.append(step)
        return float(step)

    report = _run("sft", make_play, tiny, tmp_path / "out", resume=True, on_evaluate=score, every=1)
    assert scored[0] == 5, "the whole checkpoint, of step 4, was gone on from"
    assert [entry["step"] for entry in report.metrics] == list(range(1, 13))
    (warning,) = [r.getMessage() for r in caplog.records if "as it was written" in r.getMessage()]
    assert f"checkpoint-6 is not as it was written ({name})" in warning


def test_what_bears_the_name_of_no_checkpoint_is_let_be(
    make_play: Play, tiny: Path, tmp_path: Path
) -> None:
    """A copy of a checkpoint that someone put beside it, notes, and a file."""
    with pytest.raises(_Killed):
        _run("sft", make_play, tiny, tmp_path / "out", on_evaluate=_die_at(7), every=1)
    work = tmp_path / "out.work"
    for name in ("checkpoint-copy", "checkpoint-"):
        shutil.copytree(work / "checkpoint-6", work / name)
    (work / "checkpoint-notes").mkdir()
    (work / "checkpoint-2").write_text("a file")
    opened = Workspace(
        tmp_path / "out", json.loads((work / "fingerprint.json").read_text()), resume=True
    )
    assert opened.last_checkpoint() == work / "checkpoint-6"
    assert {path.name for path in work.glob("checkpoint-*")} == {
        *("checkpoint-4", "checkpoint-6", "checkpoint-2"),
        *("checkpoint-copy", "checkpoint-", "checkpoint-notes"),
    }


@pytest.mark.parametrize("left", [0, 9, 5000])
def test_best_weights_that_cannot_be_read_are_named_and_the_scores_begin_anew(
    make_play: Play, tiny: Path, tmp_path: Path, left: int, caplog: pytest.LogCaptureFixture
) -> None:
    def falling(step: int, model: Any) -> float:
        if step == 7:
            raise _Killed
        return -float(step)

    with pytest.raises(_Killed):
        _run("sft", make_play, tiny, tmp_path / "out", on_evaluate=falling, every=1)
    (best,) = (tmp_path / "out.work").glob("best-*.safetensors")
    best.write_bytes(best.read_bytes()[:left])
    report = _run(
        "sft", make_play, tiny, tmp_path / "out", resume=True, every=1,
        on_evaluate=lambda step, model: -float(step),
    )  # fmt: skip
    assert report.best == (6, -6.0)
    assert f"{best}, with the best weights so far, cannot be read" in caplog.text


def test_weights_that_cannot_be_read_are_a_line(tiny: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from eto_gym.trainers.model.weights import load_weights, save_weights

    model: Any = AutoModelForCausalLM.from_pretrained(tiny)
    path = tmp_path / "weights.safetensors"
    with pytest.raises(DataError, match=r"weights\.safetensors cannot be read"):
        load_weights(model, path)
    save_weights(model, path)
    load_weights(model, path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match=r"weights\.safetensors cannot be read"):
        load_weights(model, path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "training.json"])
def test_a_damaged_model_is_not_taken_for_finished(
    make_play: Play, tiny: Path, tmp_path: Path, name: str
) -> None:
    _run("sft", make_play, tiny, tmp_path / "out")
    (tmp_path / "out" / name).write_bytes((tmp_path / "out" / name).read_bytes()[:-9])
    with pytest.raises(DataError, match=f"{name} is .*train again with --restart"):
        _run("sft", make_play, tiny, tmp_path / "out", resume=True)
    _run("sft", make_play, tiny, tmp_path / "out")


def test_other_settings_do_not_resume(make_play: Play, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(_Killed):
        _run("sft", make_play, tiny, tmp_path / "out", on_evaluate=_die_at(3), every=1)
    settings = replace(SFTSettings(**BASE), seed=9)
    plays = [make_play(n) for n in range(14)]
    with pytest.raises(DataError, match="cannot be resumed"):
        run_sft(settings, plays, model=tiny, output=tmp_path / "out", resume=True)
    run_sft(settings, plays, model=tiny, output=tmp_path / "out")
    assert (tmp_path / "out" / "training.json").is_file()


def _train_until_killed(make_play: Play, tiny: Path, output: Path, every: int) -> None:
    die_after_checkpoint("out.work", 4)
    _run("dpo", make_play, tiny, output, every=every, on_evaluate=lambda step, model: float(step))


@pytest.mark.parametrize(("every", "scored"), [(1, range(13)), (0, range(0, 13, 4))])
def test_killed_process_resumes(
    make_play: Play, tiny: Path, tmp_path: Path, every: int, scored: range
) -> None:
    """A real kill -9 in the middle of training, where an epoch ends whose score is still due."""
    output = tmp_path / "out"
    assert fork_one(_train_until_killed, make_play, tiny, output, every) == -signal.SIGKILL
    assert (tmp_path / "out.work" / "checkpoint-4" / "complete").exists()
    assert not output.exists()
    report = _run(
        "dpo",
        make_play,
        tiny,
        output,
        resume=True,
        every=every,
        on_evaluate=lambda step, model: float(step),
    )
    assert report.steps == 12
    assert report.scores == [(n, float(n)) for n in scored]


def _falling(step: int, model: Any) -> float:
    return {0: 0.1, 2: 0.9, 4: 0.5}.get(step, 1.0)


def _stop_and_be_killed(make_play: Play, tiny: Path, output: Path) -> None:
    die_after_checkpoint("out.work", 4)
    _run("sft", make_play, tiny, output, every=2, patience=1, on_evaluate=_falling)


def test_a_run_that_had_stopped_does_not_go_on(make_play: Play, tiny: Path, tmp_path: Path) -> None:
    """Killed after the checkpoint at which patience ran out, and before the model was written."""
    watching: dict[str, Any] = {"every": 2, "patience": 1, "on_evaluate": _falling}
    whole = _run("sft", make_play, tiny, tmp_path / "whole", **watching)
    output = tmp_path / "out"
    assert fork_one(_stop_and_be_killed, make_play, tiny, output) == -signal.SIGKILL
    report = _run("sft", make_play, tiny, output, resume=True, **watching)
    assert (report.steps, report.best, report.kept_step) == (4, (2, 0.9), 2)
    assert (report.scores, report.warnings) == (whole.scores, whole.warnings)
    weights = (output / "model.safetensors").read_bytes()
    assert weights == (tmp_path / "whole" / "model.safetensors").read_bytes()


def test_the_best_weights_are_those_of_the_step_that_is_named(
    make_play: Play, tiny: Path, tmp_path: Path
) -> None:
    """Step 5 scores best, the run goes on from step 4, and then step 5 does not score as well."""
    seen: dict[int, Any] = {}

    def weights(model: Any) -> Any:
        return model.get_input_embeddings().weight.detach().clone()

    def lucky(step: int, model: Any) -> float:
        if step == 6:
            raise _Killed
        seen[step] = weights(model)
        return {3: 0.5, 5: 0.9}.get(step, 0.1)

    output = tmp_path / "out"
    with pytest.raises(_Killed):
        _run("sft", make_play, tiny, output, every=1, on_evaluate=lucky)
    report = _run(
        "sft", make_play, tiny, output, resume=True, every=1, on_evaluate=lambda step, model: 0.1
    )
    assert report.best == (3, 0.5)
    from safetensors.torch import load_file

    kept = load_file(output / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(kept, seen[3])


def test_a_run_may_be_scored_from_where_it_goes_on(
    make_play: Play, tiny: Path, tmp_path: Path
) -> None:
    def die(make_play: Play, tiny: Path, output: Path) -> None:
        die_after_checkpoint("out.work", 4)
        _run("sft", make_play, tiny, output)

    output = tmp_path / "out"
    assert fork_one(die, make_play, tiny, output) == -signal.SIGKILL
    report = _run(
        "sft", make_play, tiny, output, resume=True, every=4, on_evaluate=lambda step, _: step
    )
    assert report.scores == [(4, 4.0), (8, 8.0), (12, 12.0)]


def test_a_score_that_is_no_number_is_refused(make_play: Play, tiny: Path, tmp_path: Path) -> None:
    """No other one would be above it, and the weights of its step would be kept."""
    from eto_gym.trainers.errors import TrainingError

    with pytest.raises(TrainingError, match=r"step 0: expected .* finite numbers, got nan"):
        _run("sft", make_play, tiny, tmp_path / "out", on_evaluate=lambda step, model: float("nan"))


def test_metrics_stand_in_the_order_that_they_had_before_a_checkpoint(tmp_path: Path) -> None:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from eto_gym.trainers.run.base_trainer import metrics_of
    from eto_gym.trainers.run.callbacks import WriteMetrics

    entry = {"loss": 0.5, "grad_norm": 1.0, "reward": 0.0, "kl": 2.0, "epoch": 1.0, "step": 1}
    whole = TrainerState(log_history=[entry])
    whole.save_to_json(str(tmp_path / "state.json"))
    written = []
    for number, state in enumerate((whole, TrainerState.load_from_json(tmp_path / "state.json"))):  # type: ignore[arg-type]
        assert list(metrics_of(state)[0]) == ["step", "epoch", "loss", "grad_norm", "kl", "reward"]
        (folder := tmp_path / str(number)).mkdir()
        arguments = TrainingArguments(str(folder))
        writer = WriteMetrics(folder)
        writer.on_train_begin(arguments, state, TrainerControl())
        writer.on_train_end(arguments, state, TrainerControl())
        written.append((folder / "metrics.jsonl").read_text())
    assert written[0] == written[1]


def test_a_checkpoint_keeps_what_a_report_says_of_played_episodes(tmp_path: Path) -> None:
    """So that a run that is resumed past its last step tells of its episodes."""
    from types import SimpleNamespace

    from transformers import TrainerState

    from eto_gym.trainers.data.encoding import TokenReport
    from eto_gym.trainers.methods.episode_source import KeepCounts

    played = TokenReport(rows=3, tokens=50, trained_tokens=9, longest=20)
    before = SimpleNamespace(notes={"share_prefix": "on"})
    callbacks: Any = [KeepCounts(before, played)]
    path = str(tmp_path / "state.json")
    TrainerState(global_step=4, stateful_callbacks=callbacks).save_to_json(path)
    data, trainer = TokenReport(), SimpleNamespace(notes={})
    KeepCounts(trainer, data).on_train_begin(None, TrainerState.load_from_json(path), None)
    assert (data, trainer) == (played, before)
    TrainerState(global_step=4).save_to_json(path)  # as an earlier version wrote it
    KeepCounts(trainer, data).on_train_begin(None, TrainerState.load_from_json(path), None)
    assert (data, trainer) == (played, before)
