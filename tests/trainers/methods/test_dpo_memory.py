"""What saves memory and time in DPO changes no number."""

from __future__ import annotations

import ast
import logging
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eto_gym.errors import EtoGymError
from eto_gym.trainers import DPOSettings, make_pairs, run_dpo
from eto_gym.trainers.run.training import TrainReport, Watch
from eto_gym.trajectories.pairs import PreferencePair
from tests.trainers.methods.dpo_parts import QUICK, Play

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def pairs(make_play: Play) -> list[PreferencePair]:
    agent = [make_play(n, good=False, rounds=1 + n % 5) for n in range(8)]
    return make_pairs(agent, [make_play(n, rounds=1 + n % 3) for n in range(8)])[0]


@pytest.fixture(scope="module")
def instructed(pairs: list[PreferencePair]) -> list[PreferencePair]:
    """The same after an instruction as long as a real one."""
    long = "You live in a house. " * 25
    return [
        replace(pair, prompt=(replace(pair.prompt[0], content=long), *pair.prompt[1:]))
        for pair in pairs
    ]


def _run(
    settings: DPOSettings, pairs: list[PreferencePair], model: Path, output: Path
) -> TrainReport:
    return run_dpo(settings, pairs, model=model, output=output, watch=Watch(progress=False))


def _losses(report: TrainReport) -> list[float]:
    return [entry["loss"] for entry in report.metrics]


@pytest.mark.parametrize("options", [{}, {"precompute_reference": False}, {"sft_weight": 0.3}])
def test_shared_and_padded_runs_have_the_same_losses(
    tiny: Path, pairs: list[PreferencePair], tmp_path: Path, options: dict[str, Any]
) -> None:
    settings = replace(QUICK, reference_cache="none", epochs=2, **options)
    shared = _run(replace(settings, share_prefix="on"), pairs, tiny, tmp_path / "on")
    padded = _run(replace(settings, share_prefix="off"), pairs, tiny, tmp_path / "off")
    assert shared.notes["share_prefix"] == "on"
    assert padded.notes["share_prefix"] == "off"
    assert _losses(shared) == pytest.approx(_losses(padded), rel=2e-5)
    for name in ("logps/chosen", "rewards/rejected"):
        ours, theirs = ([e[name] for e in r.metrics] for r in (shared, padded))
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-4)
    assert shared.data == padded.data


def test_a_model_that_cannot_share_is_trained_with_a_warning(
    tiny: Path,
    instructed: list[PreferencePair],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "eto_gym.trainers.model.layout.install_trees", lambda _: "it has layers of type conv"
    )
    with caplog.at_level(logging.WARNING):
        report = _run(QUICK, instructed, tiny, tmp_path / "auto")
    assert "cannot share what rows have in common: it has layers of type conv" in caplog.text
    assert report.notes["share_prefix"] == "off: it has layers of type conv"
    with pytest.raises(EtoGymError, match="layers of type conv"):
        _run(replace(QUICK, share_prefix="on"), instructed, tiny, tmp_path / "on")


def test_sharing_is_chosen_where_it_saves_enough(
    tiny: Path,
    pairs: list[PreferencePair],
    instructed: list[PreferencePair],
    tmp_path: Path,
) -> None:
    def note(pairs: list[PreferencePair]) -> str:
        settings = replace(QUICK, max_steps=1)
        return _run(settings, pairs, tiny, tmp_path / "out").notes["share_prefix"]

    # Short prompts: a large part of few tokens.
    assert re.match(r"off: saves [3-6]\d% of the tokens, \d\d of each row", note(pairs))
    assert re.match(r"on: saves [4-9]\d% of the tokens, \d\d\d of each row", note(instructed))


def test_reference_scores_are_found_again_by_content(
    tiny: Path, pairs: list[PreferencePair], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    settings = replace(QUICK, reference_cache=str(cache))

    def run(name: str, model: Path = tiny, some: int = 8, **options: Any) -> str:
        report = _run(replace(settings, **options), pairs[:some], model, tmp_path / name)
        assert report.metrics[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
        return report.notes["reference"]

    assert run("first") == "computed"
    assert run("other-beta", beta=0.5, learning_rate=1e-4) == "cached"
    # New adapters are no part of the reference, whatever their rank and seed.
    assert run("lora", lora_r=4) == "computed"
    assert run("more", lora_r=8, seed=1) == "cached"
    # Other pairs, and other weights under any name, have scores of their own.
    assert run("fewer", some=4) == "computed"
    assert run("trained", model=tmp_path / "first") == "computed"
    # Precision, weights and pairs each decide: no file serves two of these.
    assert len(list(cache.iterdir())) == 4
    for file in cache.iterdir():
        file.write_bytes(b"damaged")
    assert run("again") == "computed"
    assert run("and-again", batch_size=2) == "cached"


def test_only_what_is_built_on_trl_imports_it() -> None:
    """GRPO and RLOO are; preference training and the rest work with any version of it, or none."""
    root = Path(__file__).parents[3] / "trainers"
    importing = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [item.name for item in node.names]
            if isinstance(node, ast.Import)
            else []
        )
        if name.split(".")[0] == "trl" or name == "eto_gym.trainers.run.trl"
    }
    assert importing == {"methods/group.py"}


def test_offloaded_activations_give_the_same_gradients(tiny: Path) -> None:
    from transformers import AutoModelForCausalLM

    from eto_gym.trainers.model.offload import OffloadActivations, activations_of

    model: Any = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    ids = (torch.arange(300) * 7 % 300 + 5)[None]

    def gradients(context: Any) -> list[Any]:
        model.zero_grad()
        with context:
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        return [p.grad.clone() for p in model.parameters()]

    class Counting(OffloadActivations):
        """Holds what it was asked to keep, by copy: a tensor that is saved twice counts once."""

        copies: dict[int, Any]

        def _pack(self, tensor: Any) -> Any:
            kept: Any = super()._pack(tensor)
            if kept is not tensor:
                self.copies[id(kept.copy)] = kept.copy
            return kept

    offload = Counting(model)
    offload.copies = {}
    plain = gradients(activations_of(model, torch.device("cpu"), offload=True))
    moved = gradients(offload)
    assert all(torch.equal(a, b) for a, b in zip(plain, moved, strict=True))
    # More than the logits was copied, and no weight was.
    logits = ids.numel() * model.config.vocab_size * 4
    assert sum(copy.nbytes for copy in offload.copies.values()) > 2 * logits
    used = {p.untyped_storage().data_ptr() for p in model.parameters()}
    assert used == offload._weights


@pytest.mark.cuda
def test_stock_trl_has_the_same_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the benchmark's pairs, with observations masked in TRL's own batches too."""
    pytest.importorskip("trl")
    from eto_gym.benchmarks import random_models, training

    shape = {"hidden": 32, "layers": 2, "heads": 4, "kv_heads": 2, "mlp": 64, "vocab": 400}
    monkeypatch.setitem(random_models.ARCHITECTURES, "own", shape)
    folder = tmp_path / "tiny"
    random_models.build(folder, "own", 0)
    losses = {}
    for variant in training.VARIANTS:
        job = training.Job(
            architecture="own",
            method="full",
            variant=variant,
            prompt=40,
            continuation=60,
            pairs=3,
            epochs=4,
            learning_rate=1e-3,
            checkpointing=False,
            offload=False,
            precision="fp32",
            seed=0,
        )
        row = training.measure(folder, job)
        assert row["peak_mb"] >= row["training_mb"]
        losses[variant] = row["losses"]
    assert losses["trl"][0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses["trl"][-1] < 0.6
    for variant in training.VARIANTS:
        assert losses[variant] == pytest.approx(losses["trl"], rel=1e-4), variant
