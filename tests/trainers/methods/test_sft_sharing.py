"""What saves memory and time in SFT changes no number."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eto_gym.errors import EtoGymError
from eto_gym.trainers import SFTSettings, run_sft
from eto_gym.trainers.data.encoding import TokenRow
from eto_gym.trainers.run.training import TrainReport, Watch
from eto_gym.trajectories import Trajectory

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from eto_gym.trainers.data.trees import build_tree  # noqa: E402
from eto_gym.trainers.model.layout import SAMPLE, ranks_of, saving_of_trees  # noqa: E402

Play = Callable[..., Trajectory]

QUICK = SFTSettings(
    learning_rate=1e-3, epochs=2, batch_size=8, micro_batch_size=4, max_length=512, warmup_ratio=0
)


@pytest.fixture(scope="module")
def plays(make_play: Play) -> list[Trajectory]:
    return [make_play(n, rounds=1 + n % 4) for n in range(17)]


@pytest.fixture(scope="module")
def instructed(plays: list[Trajectory]) -> list[Trajectory]:
    """The same after an instruction as long as a real one."""
    return [_told(play, "You live in a house. " * 25) for play in plays]


def _told(play: Trajectory, instruction: str) -> Trajectory:
    first, *others = play.messages
    return replace(play, messages=(replace(first, content=instruction), *others))


def _run(
    settings: SFTSettings, plays: list[Trajectory], model: Path, output: Path
) -> tuple[TrainReport, dict[str, Any]]:
    from safetensors.torch import load_file

    report = run_sft(settings, plays, model=model, output=output, watch=Watch(progress=False))
    (file,) = output.glob("*model.safetensors")
    return report, load_file(file)


def _assert_equal(ours: tuple[TrainReport, Any], theirs: tuple[TrainReport, Any]) -> None:
    assert len(ours[0].metrics) == len(theirs[0].metrics) == 6
    for one, other in zip(ours[0].metrics, theirs[0].metrics, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)
    assert ours[0].data == theirs[0].data
    for name, weight in ours[1].items():
        # Adam divides by the size of a gradient: where that is nearly 0, rounding decides.
        assert ((weight - theirs[1][name]).abs() > 1e-5).float().mean() < 0.001, name


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"train_on": "all", "activation_offload": True},
        {"lora_r": 4, "gradient_checkpointing": True},
    ],
    ids=lambda options: "+".join(options) or "plain",
)
def test_shared_and_padded_runs_are_equal(
    tiny: Path, plays: list[Trajectory], tmp_path: Path, options: dict[str, Any]
) -> None:
    settings = replace(QUICK, **options)
    shared = _run(replace(settings, share_prefix="on"), plays, tiny, tmp_path / "on")
    padded = _run(replace(settings, share_prefix="off"), plays, tiny, tmp_path / "off")
    assert (shared[0].notes, padded[0].notes) == ({"share_prefix": "on"}, {"share_prefix": "off"})
    _assert_equal(shared, padded)


def test_micro_batches_do_not_change_shared_runs(
    tiny: Path, plays: list[Trajectory], tmp_path: Path
) -> None:
    settings = replace(QUICK, share_prefix="on", batch_size=4, max_steps=6)
    whole = _run(replace(settings, micro_batch_size=4), plays, tiny, tmp_path / "4x1")
    parts = _run(replace(settings, micro_batch_size=1), plays, tiny, tmp_path / "1x4")
    _assert_equal(whole, parts)


WINDOWS = {
    "sliding_window": 7,
    "layer_types": ["sliding_attention", "full_attention"],
    "query_pre_attn_scalar": 16,
}


@pytest.mark.parametrize(
    ("family", "attention", "options"),
    [
        ("llama", "sdpa", {}),
        ("qwen2", "eager", {}),
        ("qwen3", "sdpa", {}),
        ("mistral", "sdpa", {"sliding_window": 7}),
        ("gemma2", "eager", WINDOWS),
        ("phi3", "sdpa", {}),
    ],
)
def test_losses_and_gradients_of_families_are_equal(
    tiny: Path, tmp_path: Path, family: str, attention: str, options: dict[str, Any]
) -> None:
    """In float64, up to what layers always compute in float32."""
    from eto_gym.trainers.methods.sft import TurnSFTTrainer
    from eto_gym.trainers.model.models import load_tokenizer, quiet_libraries
    from tests.trainers.model.test_trees import _model

    every = [(37 * n) % 290 + 3 for n in range(60)]
    ends = [every[30:44], every[30:37] + every[50:], every[41:52], every[45:48]]
    rows = [TokenRow(every[:20] + end, [n % 3 > 0 for n in range(20 + len(end))]) for end in ends]

    def results(share_prefix: str) -> tuple[float, dict[str, Any]]:
        model = _model(family, attention, **options).double()
        trainer = TurnSFTTrainer(
            replace(QUICK, batch_size=4, share_prefix=share_prefix),
            model=model,
            rows=rows,
            tokenizer=load_tokenizer(tiny),
            workspace=tmp_path,
        )
        batch = trainer._collate(rows)
        assert ("tree" in batch) == (share_prefix == "on")
        count = trainer._get_num_items_in_batch([batch], torch.device("cpu"))
        loss: Any = trainer.compute_loss(model, batch, num_items_in_batch=count)
        loss.backward()
        return loss.item(), {name: p.grad for name, p in model.named_parameters()}

    with quiet_libraries():
        padded, expected = results("off")
        shared, gradients = results("on")
    assert shared == pytest.approx(padded, rel=1e-6)
    for name, gradient in gradients.items():
        scale = expected[name].abs().max().item()
        assert torch.allclose(gradient, expected[name], rtol=1e-5, atol=1e-6 * scale), name


def test_sharing_is_chosen_where_it_saves_enough(
    tiny: Path, plays: list[Trajectory], instructed: list[Trajectory], tmp_path: Path
) -> None:
    def note(plays: list[Trajectory], **options: Any) -> str:
        settings = replace(QUICK, max_steps=1, **options)
        return _run(settings, plays, tiny, tmp_path / "out")[0].notes["share_prefix"]

    assert note(instructed).startswith("on: saves ")
    assert note(instructed, micro_batch_size=1) == "off: saves 0% of the tokens, 0 of each row"
    # Short rows: a large part of few tokens.
    assert re.match(r"off: saves [3-6]\d% of the tokens, \d\d of each row", note(plays))
    own = [_told(play, f"{n} is the number.") for n, play in enumerate(plays)]
    assert note(own).startswith("off: saves ")


def test_a_model_that_cannot_share_is_trained_with_a_warning(
    tiny: Path,
    instructed: list[Trajectory],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "eto_gym.trainers.model.layout.install_trees", lambda _: "it has layers of type conv"
    )
    quick = replace(QUICK, max_steps=1)
    with caplog.at_level(logging.WARNING):
        fallen, _ = _run(quick, instructed, tiny, tmp_path / "auto")
    assert "cannot share what rows have in common: it has layers of type conv" in caplog.text
    assert fallen.notes == {"share_prefix": "off: it has layers of type conv"}
    with pytest.raises(EtoGymError, match="layers of type conv"):
        _run(replace(quick, share_prefix="on"), instructed, tiny, tmp_path / "on")
    padded, _ = _run(replace(quick, share_prefix="off"), instructed, tiny, tmp_path / "off")
    assert fallen.metrics == padded.metrics


ROWS = st.lists(st.lists(st.integers(3, 5), min_size=1, max_size=12), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=4))
def test_what_trees_save_is_what_they_do_not_hold(groups: list[list[list[int]]]) -> None:
    rows: list[TokenRow] = []
    batches, kept, padded = [], 0, 0
    for group in groups:
        batches.append(list(range(len(rows), len(rows) + len(group))))
        own = [TokenRow(ids, [True] * len(ids)) for ids in group]
        rows += own
        kept += build_tree(own)["input_ids"].shape[1]
        padded += len(own) * max(map(len, group))
    part, per_row = saving_of_trees([[row] for row in rows], batches, batches)
    assert part == pytest.approx(1 - kept / padded)
    assert per_row == pytest.approx((padded - kept) / len(rows))


def test_only_a_sample_of_the_batches_is_looked_at() -> None:
    looked = []

    class Counted(list[list[TokenRow]]):
        def __getitem__(self, index: Any) -> Any:
            looked.append(index)
            return super().__getitem__(index)

    units = Counted([TokenRow([3, 4, n], [True] * 3)] for n in range(6000))
    batches = [[n, n + 1] for n in range(0, 6000, 2)]
    saving_of_trees(units, batches, batches, passes=4)
    # Each once padded and once in a tree.
    assert SAMPLE / 2 < len(looked) / 4 <= SAMPLE
    assert max(looked) > 5900
    whole = {n // 8 * 8 + i for n in looked for i in range(8)}
    assert set(looked) == whole, "optimizer batches, lest padded rows and trees be of other rows"


def test_rows_that_share_most_are_put_into_one_pass(
    tiny: Path, instructed: list[Trajectory], tmp_path: Path
) -> None:
    """Two instructions, and lengths that have nothing to do with them."""
    from eto_gym.trainers.methods.sft import TurnSFTTrainer
    from eto_gym.trainers.model.models import load_tokenizer, quiet_libraries

    first, second = list(range(3, 120)), list(range(120, 237))
    rows = [
        TokenRow((first, second)[n % 2] + [250 + n] * n, [n > 0] * (117 + n)) for n in range(1, 9)
    ]
    with quiet_libraries():
        trainer = TurnSFTTrainer(
            QUICK, model=_llama(), rows=rows, tokenizer=load_tokenizer(tiny), workspace=tmp_path
        )
        batches = list(trainer.get_train_dataloader())
    assert trainer.notes["share_prefix"].startswith("on: saves ")
    # Four rows of an instruction: it stands there once.
    assert sorted(batch["input_ids"].shape[1] for batch in batches) == [
        117 + 1 + 3 + 5 + 7,
        117 + 2 + 4 + 6 + 8,
    ]
    units = [[row] for row in rows]
    by_length = [[0, 1, 2, 3], [4, 5, 6, 7]]
    shared = [sorted(range(8), key=ranks_of(units).__getitem__)[i : i + 4] for i in (0, 4)]
    less, more = (saving_of_trees(units, by_length, some) for some in (by_length, shared))
    assert more.per_row > less.per_row > 0


def test_packed_rows_are_learnt_from_as_doubles_by_hand_say(tiny: Path, tmp_path: Path) -> None:
    """Rows of four lengths that share nothing: one row of tokens, no padding, no mixing."""
    from eto_gym.trainers.methods.sft import TurnSFTTrainer
    from eto_gym.trainers.model.models import load_tokenizer, quiet_libraries

    rows = [
        TokenRow(
            [3 + (7 * n + 37 * i) % 290 for i in range(size)], [i % 3 > 0 for i in range(size)]
        )
        for n, size in enumerate((5, 23, 11, 38))
    ]
    model = _llama().double()
    logps = []
    for row in rows:
        said = model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
        logps += [said[i - 1, row.ids[i]] for i in range(1, len(row.ids)) if row.mask[i]]
    expected = -torch.stack(logps).mean()
    expected.backward()
    by_hand = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()

    with quiet_libraries():
        trainer = TurnSFTTrainer(
            replace(QUICK, batch_size=4, share_prefix="on"),
            model=model,
            rows=rows,
            tokenizer=load_tokenizer(tiny),
            workspace=tmp_path,
        )
    batch = trainer._collate(rows)
    assert batch["input_ids"].shape == (1, 5 + 23 + 11 + 38)
    assert len(batch["tree"].segments) == 4
    count = trainer._get_num_items_in_batch([batch], torch.device("cpu"))
    loss: Any = trainer.compute_loss(model, batch, num_items_in_batch=count)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-7)
    for name, weight in model.named_parameters():
        # Layers take roots and positions in float32, whatever their weights are.
        scale = by_hand[name].abs().max().item()
        assert torch.allclose(weight.grad, by_hand[name], rtol=1e-6, atol=1e-7 * scale), name


def _llama() -> Any:
    from tests.trainers.model.test_trees import _model

    return _model("llama")


@pytest.mark.cuda
def test_stock_trl_has_the_same_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the benchmark's rows."""
    pytest.importorskip("trl")
    from eto_gym.benchmarks import random_models, sft

    shape = {"hidden": 32, "layers": 2, "heads": 4, "kv_heads": 2, "mlp": 64, "vocab": 400}
    monkeypatch.setitem(random_models.ARCHITECTURES, "own", shape)
    random_models.build(tmp_path / "model", "own", 0)
    rows = sft.random_rows(6, 100, 60, 400, shared=True, seed=0)
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    results = {}
    for variant in sft.VARIANTS:
        job = sft.Job(
            variant=variant,
            model=str(tmp_path / "model"),
            rows=str(tmp_path / "rows.json"),
            batch=6,
            micro_batch=3,
            steps=4,
            learning_rate=1e-2,
            method="full",
            checkpointing=False,
            precision="fp32",
            seed=0,
        )
        results[variant] = sft.measure(job)
    stock = results["trl"]["losses"]
    assert stock[-1] < stock[0] - 0.1
    for variant, result in results.items():
        assert result["losses"] == pytest.approx(stock, rel=1e-5), variant
        assert result["tokens_per_s"] * result["wall_s"] == pytest.approx(6 * 160 * 4)
    assert results["padded"]["share_prefix"] == "off"
    assert results["ours"]["share_prefix"].startswith("on: saves ")
