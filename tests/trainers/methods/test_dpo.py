from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from eto_gym.errors import DataError, UnknownNameError
from eto_gym.prompt import Message
from eto_gym.trainers import DPOSettings, make_pairs, run_dpo
from eto_gym.trainers.data.encoding import (
    TokenPair,
    TokenReport,
    TokenRow,
    encode_pairs,
    fingerprint,
)
from eto_gym.trainers.run.training import Watch
from eto_gym.trainers.settings.base import SettingsError
from eto_gym.trainers.settings.data import PairingSettings
from eto_gym.trajectories import Trajectory
from eto_gym.trajectories.formats import read_pair, to_hf_preference, to_paper_dpo
from eto_gym.trajectories.pairs import PreferencePair

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

Play = Callable[..., Trajectory]

QUICK = DPOSettings(
    learning_rate=1e-3, epochs=1, batch_size=4, micro_batch_size=2, max_length=512, warmup_ratio=0
)


@pytest.fixture(scope="module")
def pairs(make_play: Play) -> list[PreferencePair]:
    agent = [make_play(n, good=False, rounds=1 + n % 5) for n in range(10)]
    made, _ = make_pairs(agent, [make_play(n, rounds=1 + n % 3) for n in range(10)])
    return made


def _codec(tiny: Path) -> Any:
    from eto_gym.trainers.model.models import default_codec, load_tokenizer

    return default_codec(load_tokenizer(tiny))


def _rows(tiny: Path, pairs: list[PreferencePair]) -> list[TokenPair]:
    return encode_pairs(_codec(tiny), pairs, max_length=512)[0]


def _trainer(tiny: Path, rows: list[TokenPair], settings: DPOSettings, folder: Path) -> Any:
    from eto_gym.trainers.methods.dpo import TrajectoryDPOTrainer
    from eto_gym.trainers.model.models import load_for_training, load_tokenizer
    from eto_gym.trainers.run.callbacks import set_callbacks

    folder.mkdir(parents=True, exist_ok=True)
    trainer = TrajectoryDPOTrainer(
        settings,
        model=load_for_training(tiny, settings),
        rows=rows,
        tokenizer=load_tokenizer(tiny),
        workspace=folder,
    )
    set_callbacks(trainer)
    return trainer


def _double_logps(
    model: Any, ids: list[int], mask: list[bool], discount: float | None = None
) -> Any:
    """Sum of log-softmax over the trained tokens: plain torch, one row, no padding, float64.

    With a discount each turn has DMPO's weight.
    """
    logits = model(input_ids=torch.tensor([ids])).logits[0]
    starts = [i for i in range(len(ids)) if mask[i] and (i == 0 or not mask[i - 1])]
    total = torch.zeros((), dtype=torch.float64)
    for position in range(1, len(ids)):
        if mask[position]:
            turn = sum(start <= position for start in starts) - 1
            weight = 1.0
            if discount is not None:
                left = 1 - discount ** (len(starts) - turn)
                weight = left / (1 - discount ** len(starts))
            total = total + weight * logits[position - 1].log_softmax(-1)[ids[position]]
    return total


def _double_model(tiny: Path, scale: float = 0.0) -> Any:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float64)
    _perturb(model, scale)
    return model.eval()


def _loss_away_from_the_reference(trainer: Any) -> Any:
    """Return the loss of all rows as one batch, with its gradients, of a policy that has moved."""
    _perturb(trainer.model, 0.01)
    if trainer._origin is not None:
        trainer._origin.value = 0.25
    batch = trainer._collate(list(trainer.train_dataset))
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(4))
    loss.backward()
    return loss


def _perturb(model: Any, scale: float) -> None:
    """Move the policy away from its reference by a fixed amount."""
    generator = torch.Generator().manual_seed(5)
    for _, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data += (scale * noise).to(parameter.dtype)


def test_only_the_agents_tokens_are_marked(tiny: Path, pairs: list[PreferencePair]) -> None:
    codec = _codec(tiny)
    for pair, row in zip(pairs, _rows(tiny, pairs), strict=True):
        for side, messages in ((row.chosen, pair.chosen), (row.rejected, pair.rejected)):
            marked = [i for i, kept in zip(side.ids, side.mask, strict=True) if kept]
            replies = [m.content + "<|end|>" for m in messages if m.role == "assistant"]
            assert codec.tokenizer.decode(marked) == "".join(replies)


@pytest.mark.parametrize(
    "settings",
    [
        QUICK,
        replace(QUICK, beta=0.5, label_smoothing=0.1),
        replace(QUICK, loss="hinge"),
        replace(QUICK, loss="ipo"),
        replace(QUICK, sft_weight=0.3),
        replace(QUICK, length_normalization=True, beta=2.0),
        replace(QUICK, loss="dpop", positive_weight=5.0),
        replace(QUICK, loss="dmpo", turn_discount=0.7),
        replace(QUICK, loss="kto", undesirable_weight=1.5),
        replace(QUICK, loss="simpo", beta=2.0, target_margin=0.6),
        replace(QUICK, loss="orpo", beta=0.3),
        replace(QUICK, loss="dmpo", turn_discount=0.7, share_prefix="off"),
    ],
    ids=lambda s: f"{s.loss}-{s.share_prefix}",
)
def test_loss_and_gradient_equal_hand_computed_doubles(
    tiny: Path,
    pairs: list[PreferencePair],
    tmp_path: Path,
    settings: DPOSettings,
) -> None:
    rows = _rows(tiny, pairs)[:4]
    trainer = _trainer(tiny, rows, settings, tmp_path)
    loss = _loss_away_from_the_reference(trainer)

    policy, reference = _double_model(tiny, 0.01), _double_model(tiny)
    expected = torch.zeros((), dtype=torch.float64)
    for row in rows:
        ratios, means = [], []
        discount = settings.turn_discount if settings.loss == "dmpo" else None
        for side in (row.chosen, row.rejected):
            ratio = _double_logps(policy, side.ids, side.mask, discount)
            means.append(ratio / sum(side.mask))
            ratio = ratio - _double_logps(reference, side.ids, side.mask, discount).detach()
            ratios.append(ratio / sum(side.mask) if settings.length_normalization else ratio)
        gap = ratios[0] - ratios[1]
        margin = settings.beta * gap
        if settings.loss == "hinge":
            term = (1 - margin).clamp(min=0)
        elif settings.loss == "ipo":
            term = (gap - 1 / (2 * settings.beta)) ** 2
        elif settings.loss == "dpop":
            fallen = torch.maximum(-ratios[0], torch.zeros(()))
            term = -torch.log(torch.sigmoid(settings.beta * (gap - 5.0 * fallen)))
        elif settings.loss == "kto":
            good = 1 - torch.sigmoid(settings.beta * (ratios[0] - 0.25))
            bad = 1 - torch.sigmoid(settings.beta * (0.25 - ratios[1]))
            term = (good + 1.5 * bad) / 2
        elif settings.loss == "simpo":
            term = -torch.log(torch.sigmoid(2.0 * means[0] - 2.0 * means[1] - 0.6))
        elif settings.loss == "orpo":
            odds = [torch.exp(mean) / (1 - torch.exp(mean)) for mean in means]
            term = -means[0] - 0.3 * torch.log(torch.sigmoid(torch.log(odds[0] / odds[1])))
        else:
            smooth = settings.label_smoothing
            term = -(1 - smooth) * torch.log(torch.sigmoid(margin))
            term = term - smooth * torch.log(torch.sigmoid(-margin))
        if settings.sft_weight:
            chosen = _double_logps(policy, row.chosen.ids, row.chosen.mask)
            term = term - settings.sft_weight * chosen / sum(row.chosen.mask)
        expected = expected + term / len(rows)
    expected.backward()

    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, parameter in trainer.model.named_parameters():
        exact = policy.get_parameter(name).grad
        assert torch.allclose(parameter.grad.double(), exact, rtol=1e-3, atol=3e-5), name


@pytest.mark.parametrize("share_prefix", ["on", "off"])
def test_kto_takes_sides_that_stand_by_themselves(
    tiny: Path, pairs: list[PreferencePair], tmp_path: Path, share_prefix: str
) -> None:
    """A success alone, two failures alone, and a pair, against float64 values."""
    single = [replace(pairs[0], rejected=())]
    single += [replace(pair, chosen=()) for pair in pairs[1:3]]
    rows = _rows(tiny, [*single, pairs[3]])
    settings = replace(QUICK, loss="kto", undesirable_weight=1.5, share_prefix=share_prefix)
    trainer = _trainer(tiny, rows, settings, tmp_path)
    assert trainer._origin is not None
    loss = _loss_away_from_the_reference(trainer)

    policy, reference = _double_model(tiny, 0.01), _double_model(tiny)
    expected = torch.zeros((), dtype=torch.float64)
    ratios = []
    for row in rows:
        terms = []
        for side, sign, weight in ((row.sides[0], 1, 1.0), (row.sides[1], -1, 1.5)):
            for part in side:
                ratio = _double_logps(policy, part.ids, part.mask)
                ratio = ratio - _double_logps(reference, part.ids, part.mask).detach()
                ratios.append(float(ratio))
                gap = sign * settings.beta * (ratio - 0.25)
                terms.append(weight * (1 - torch.sigmoid(gap)))
        expected = expected + sum(terms) / len(terms) / len(rows)
    expected.backward()
    assert len(ratios) == 5
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, parameter in trainer.model.named_parameters():
        exact = policy.get_parameter(name).grad
        assert torch.allclose(parameter.grad.double(), exact, rtol=1e-3, atol=3e-5), name
    trainer._origin.begin_batch(trainer.accelerator)
    mean = sum(ratios) / 5
    assert trainer._origin.value == pytest.approx(max(0.0, mean), abs=1e-5)
    noted = {name: len(values) for name, values in trainer._noted.items()}
    assert (noted["logps/chosen"], noted["logps/rejected"]) == (2, 3)
    assert (noted["rewards/chosen"], noted["rewards/rejected"], noted["rewards/margins"]) == (
        2,
        3,
        1,
    )


def test_sides_by_themselves_are_for_kto_alone(
    tiny: Path, pairs: list[PreferencePair], tmp_path: Path
) -> None:
    single = [replace(pairs[0], rejected=()), replace(pairs[1], chosen=())]
    with pytest.raises(DataError, match="2 successes or failures stand by themselves"):
        run_dpo(QUICK, single, model=tiny, output=tmp_path / "out")
    rows = _rows(tiny, single)
    swapped = _rows(tiny, [replace(p, chosen=p.rejected, rejected=p.chosen) for p in single])
    assert fingerprint(rows) != fingerprint(swapped)


@pytest.mark.parametrize("share_prefix", ["on", "off"])
@pytest.mark.parametrize(
    "settings",
    [QUICK, replace(QUICK, sft_weight=0.3), replace(QUICK, length_normalization=True, beta=2.0)],
    ids=["sigmoid", "sft", "normalized"],
)
def test_a_side_of_a_bounded_history_is_the_sum_of_its_rows(
    tiny: Path, make_play: Play, tmp_path: Path, settings: DPOSettings, share_prefix: str
) -> None:
    settings = replace(settings, share_prefix=share_prefix)
    agent = [make_play(n, good=False, rounds=4) for n in range(3)]
    expert = [make_play(n, rounds=2 + n) for n in range(3)]
    pairs, report = make_pairs(
        [replace(t, history="state:1", states=tuple("abcd")) for t in agent],
        [replace(t, history="state:1", states=tuple("abcd"[: t.step_count])) for t in expert],
    )
    assert report.pairs == 3
    rows = _rows(tiny, pairs)
    assert [len(side) for row in rows for side in row.sides] == [2, 4, 3, 4, 4, 4]
    trainer = _trainer(tiny, rows, settings, tmp_path)
    _perturb(trainer.model, 0.01)
    batch = trainer._collate(list(trainer.train_dataset))
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(3))
    loss.backward()

    policy, reference = _double_model(tiny, 0.01), _double_model(tiny)
    expected = torch.zeros((), dtype=torch.float64)
    for row, item in zip(rows, trainer.train_dataset, strict=True):
        ratios = []
        for side, name in zip(row.sides, ("chosen", "rejected"), strict=True):
            scored = sum(_double_logps(reference, r.ids, r.mask).detach() for r in side)
            assert item[f"ref_{name}_logps"] == pytest.approx(float(scored), rel=1e-5)
            ratio = sum(_double_logps(policy, r.ids, r.mask) for r in side) - scored
            tokens = sum(r.trained for r in side)
            ratios.append(ratio / tokens if settings.length_normalization else ratio)
        term = -torch.log(torch.sigmoid(settings.beta * (ratios[0] - ratios[1])))
        if settings.sft_weight:
            chosen = sum(_double_logps(policy, r.ids, r.mask) for r in row.sides[0])
            term = term - settings.sft_weight * chosen / sum(r.trained for r in row.sides[0])
        expected = expected + term / len(rows)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, parameter in trainer.model.named_parameters():
        exact = policy.get_parameter(name).grad
        assert torch.allclose(parameter.grad.double(), exact, rtol=1e-3, atol=3e-5), name


def test_rows_and_conversations_have_the_same_loss_where_both_are_defined(
    tiny: Path, make_play: Play
) -> None:
    """A history that leaves nothing out gives the rows of whole conversations."""
    agent = [make_play(n, good=False, rounds=4) for n in range(3)]
    expert = [make_play(n, rounds=3) for n in range(3)]
    whole, _ = make_pairs(agent, expert)
    wide, _ = make_pairs(
        [replace(t, history="last:9") for t in agent],
        [replace(t, history="last:9") for t in expert],
    )
    assert _rows(tiny, wide) == _rows(tiny, whole)


def test_pairs_of_a_bounded_history_are_read_back_and_checked(make_play: Play) -> None:
    agent = [replace(make_play(0, good=False), history="state", states=("a", "b", "c"))]
    expert = [replace(make_play(0, rounds=2), history="state", states=("a", "d"))]
    (pair,), _ = make_pairs(agent, expert)
    assert (pair.head, pair.chosen_states, pair.rejected_states) == (2, ("a", "d"), tuple("abc"))
    for write in (to_paper_dpo, to_hf_preference):
        record = json.loads(json.dumps(write(pair)))
        assert replace(read_pair(record), info=pair.info) == pair
        for wrong in ({"history": "lots"}, {"head": 3}, {"head": None}, {"chosen_states": ["a"]}):
            with pytest.raises(DataError):
                read_pair({**record, **wrong})
    _, report = make_pairs(agent, [make_play(0, rounds=2)])
    assert report.skipped == {"different_history": 1}
    cut, _ = make_pairs(agent, expert, PairingSettings(max_extra_rounds=0))
    assert cut[0].rejected_states == ("a", "b")


def test_cutting_a_bounded_side_leaves_its_first_turns(tiny: Path, make_play: Play) -> None:
    agent = [replace(make_play(0, good=False, rounds=5), history="last:1")]
    expert = [replace(make_play(0, rounds=1), history="last:1")]
    pairs, _ = make_pairs(agent, expert)
    (row,) = _rows(tiny, pairs)
    lengths = [len(r.ids) for r in row.sides[1]]
    assert len(lengths) == 4
    limit = max(lengths) - 1
    with pytest.raises(DataError, match=f"the longest, task 'task-0', has {max(lengths)}"):
        encode_pairs(_codec(tiny), pairs, max_length=limit)
    (cut,), report = encode_pairs(_codec(tiny), pairs, max_length=limit, truncation="cut")
    kept = cut.sides[1]
    assert report.cut == 1
    assert sum(r.trained for r in kept) < sum(r.trained for r in row.sides[1])
    assert report.cut_turns == 5 - report.losses[0].kept
    for short, long in zip(kept, row.sides[1], strict=False):
        assert short.ids == long.ids[: len(short.ids)]


def test_reference_scores_equal_hand_computed_doubles(
    tiny: Path, pairs: list[PreferencePair], tmp_path: Path
) -> None:
    rows = _rows(tiny, pairs)
    trainer = _trainer(tiny, rows, QUICK, tmp_path)
    model = _double_model(tiny)
    for row, item in zip(rows, trainer.train_dataset, strict=True):
        for name in ("chosen", "rejected"):
            side = getattr(row, name)
            exact = _double_logps(model, side.ids, side.mask).item()
            assert item[f"ref_{name}_logps"] == pytest.approx(exact, rel=1e-5)


def test_observations_never_enter_the_loss(
    tiny: Path, pairs: list[PreferencePair], tmp_path: Path
) -> None:
    """The output layer sees the states before the agent's tokens, and no other state."""
    rows = _rows(tiny, pairs)[:3]
    trainer = _trainer(tiny, rows, replace(QUICK, share_prefix="off"), tmp_path)
    batch = trainer._collate(list(trainer.train_dataset))
    states: list[Any] = []

    def keep(_: Any, inputs: tuple[Any, ...], __: Any) -> None:
        states.append(inputs[0])

    with_hook = trainer.model.get_output_embeddings().register_forward_hook(keep)
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(3))
    with_hook.remove()
    loss.backward()
    trained = sum(sum(side.mask) for row in rows for side in (row.chosen, row.rejected))
    assert [len(state) for state in states] == [trained]
    total = sum(len(side.ids) for row in rows for side in (row.chosen, row.rejected))
    assert trained < total / 2

    # What follows the last trained token of a side is padding, and may be any token.
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    for index, labels in enumerate(batch["labels"]):
        end = int(torch.nonzero(labels != -100).max()) + 1
        changed["input_ids"][index, end:] = 7
    again = trainer.compute_loss(trainer.model, changed, num_items_in_batch=torch.tensor(3))
    assert again.item() == pytest.approx(loss.item(), abs=1e-6)


def test_counting_observations_would_change_the_loss(
    tiny: Path, pairs: list[PreferencePair], tmp_path: Path
) -> None:
    """The check above has teeth: marking observations as trained moves the loss."""
    rows = [row for row in _rows(tiny, pairs) if len(row.rejected.ids) > 80][:3]

    def everything(side: TokenRow) -> TokenRow:
        return side._replace(mask=[False] + [True] * (len(side.ids) - 1))

    wrong = [TokenPair(everything(row.chosen), everything(row.rejected)) for row in rows]
    losses = []
    for name, chosen_rows in (("right", rows), ("wrong", wrong)):
        trainer = _trainer(tiny, chosen_rows, QUICK, tmp_path / name)
        _perturb(trainer.model, 0.01)
        batch = trainer._collate(list(trainer.train_dataset))
        losses.append(trainer.compute_loss(trainer.model, batch, num_items_in_batch=3).item())
    assert abs(losses[0] - losses[1]) > 1e-3


def _losses(
    tiny: Path, pairs: list[PreferencePair], output: Path, settings: DPOSettings
) -> list[float]:
    report = run_dpo(settings, pairs, model=tiny, output=output, watch=Watch(progress=False))
    return [entry["loss"] for entry in report.metrics]


def test_micro_batches_do_not_change_the_losses(
    tiny: Path, pairs: list[PreferencePair], tmp_path: Path
) -> None:
    # Ten pairs: the last batch of four is smaller, and must be averaged over two pairs.
    whole = _losses(tiny, pairs, tmp_path / "4x1", replace(QUICK, micro_batch_size=4, epochs=2))
    parts = _losses(tiny, pairs, tmp_path / "1x4", replace(QUICK, micro_batch_size=1, epochs=2))
    assert len(whole) == 6
    assert whole == pytest.approx(parts, rel=1e-4)


def test_same_seed_gives_the_same_losses(
    tiny: Path, pairs: list[PreferencePair], tmp_path: Path
) -> None:
    first = _losses(tiny, pairs, tmp_path / "a", QUICK)
    assert first == _losses(tiny, pairs, tmp_path / "b", QUICK)
    assert first != _losses(tiny, pairs, tmp_path / "c", replace(QUICK, seed=1))


def test_precomputed_reference_equals_the_model_kept_in_memory(
    tiny: Path, pairs: list[PreferencePair], tmp_path: Path
) -> None:
    once = _losses(tiny, pairs, tmp_path / "once", QUICK)
    each = _losses(tiny, pairs, tmp_path / "each", replace(QUICK, precompute_reference=False))
    assert once == pytest.approx(each, rel=1e-5)


def test_training_raises_the_margin(
    tiny: Path, pairs: list[PreferencePair], tmp_path: Path
) -> None:
    report = run_dpo(
        replace(QUICK, epochs=6),
        pairs,
        model=tiny,
        output=tmp_path / "out",
        watch=Watch(progress=False),
    )
    first, last = report.metrics[0], report.metrics[-1]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-4)
    assert last["rewards/margins"] > 1
    assert last["rewards/accuracies"] == 1
    assert last["loss"] < 0.4
    assert last["rewards/margins"] == pytest.approx(
        last["rewards/chosen"] - last["rewards/rejected"], abs=1e-4
    )
    # What was written is what was trained: the margin holds for the model on disk.
    new, old = _load(tmp_path / "out"), _load(tiny)
    margins = []
    for row in _rows(tiny, pairs):
        ratios = [
            (_double_logps(new, side.ids, side.mask) - _double_logps(old, side.ids, side.mask))
            for side in (row.chosen, row.rejected)
        ]
        margins.append(0.1 * (ratios[0] - ratios[1]).item())
    assert sum(margins) / len(margins) > 1
    stored = json.loads((tmp_path / "out" / "training.json").read_text())
    assert stored["method"] == "dpo"
    assert stored["metrics"] == report.metrics


def _load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    return model.eval()


def test_long_sides_are_refused_or_cut_at_turns(
    tiny: Path, make_play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    pairs, _ = make_pairs([make_play(0, good=False, rounds=8)], [make_play(0, rounds=3)])
    (row,), _ = encode_pairs(_codec(tiny), pairs, max_length=512)
    limit = len(row.rejected.ids) - 1
    with pytest.raises(DataError, match=r"1 conversations are longer than max_length"):
        encode_pairs(_codec(tiny), pairs, max_length=limit)
    (cut,), report = encode_pairs(_codec(tiny), pairs, max_length=limit, truncation="cut")
    assert cut.chosen == row.chosen
    assert cut.rejected.ids == row.rejected.ids[: len(cut.rejected.ids)]
    assert cut.rejected.mask[-1]
    assert (report.cut, report.cut_turns) == (1, 1)
    assert (report.cut_chosen, report.cut_rejected) == (0, 1)
    assert report.cut_tokens == len(row.rejected.ids) - len(cut.rejected.ids) > 0
    assert report.losses == [("task-0", "rejected", limit + 1, 8, 7)]
    with caplog.at_level(logging.WARNING, logger="eto_gym"):
        report.log("dpo")
    assert "1 conversation cut at the end to max_length (0 chosen, 1 rejected)" in caplog.text
    assert "losing 1 agent turns" in caplog.text
    # A side that loses everything takes the pair with it, and is counted all the same.
    prompt = row.chosen.ids[: row.chosen.mask.index(True)]
    both = [*pairs, *make_pairs([make_play(1, good=False)], [make_play(1, rounds=1)])[0]]
    short = len(prompt) + 20
    kept, report = encode_pairs(_codec(tiny), both, max_length=short, truncation="cut")
    assert report.rows == len(kept)
    assert len(kept) + report.dropped + report.identical == 2
    assert TokenReport.from_json(json.loads(json.dumps(asdict(report)))) == report


def test_a_mark_in_the_prompt_is_not_trained(tiny: Path, pairs: list[PreferencePair]) -> None:
    marked = replace(
        pairs[0],
        prompt=tuple(
            Message(m.role, m.content, train=m.role == "assistant") for m in pairs[0].prompt
        ),
    )
    assert _rows(tiny, [marked]) == _rows(tiny, pairs[:1])


def test_unusable_pairs_are_refused(tiny: Path, pairs: list[PreferencePair]) -> None:
    with pytest.raises(DataError, match="no pair to train on"):
        encode_pairs(_codec(tiny), [], max_length=512)
    same = replace(pairs[0], rejected=pairs[0].chosen)
    with pytest.raises(DataError, match="1 with identical sides"):
        encode_pairs(_codec(tiny), [same], max_length=512)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(UnknownNameError):
        DPOSettings(loss="sigmod")
    with pytest.raises(SettingsError, match="beta"):
        DPOSettings(beta=0)
    with pytest.raises(SettingsError, match="label_smoothing"):
        DPOSettings(loss="ipo", label_smoothing=0.1)


def test_the_origin_of_kto_is_the_batch_before_whatever_the_micro_batches(
    tiny: Path, pairs: list[PreferencePair], tmp_path: Path
) -> None:
    rows = _rows(tiny, pairs)
    found = []
    for size in (4, 2):
        settings = replace(QUICK, loss="kto", micro_batch_size=size, share_prefix="off")
        trainer = _trainer(tiny, rows, settings, tmp_path / str(size))
        trainer.train()
        found.append(trainer.origin)
    assert found[0] == pytest.approx(found[1], rel=1e-4, abs=1e-7)
    kept = trainer._origin.state()["attributes"]
    assert kept["value"] == trainer.origin
    assert kept["total"][1] == 2 * (len(rows) % 4 or 4), "the last batch waits to be taken stock of"


def test_settings_of_one_loss_name_no_stage_of_another() -> None:
    from eto_gym.trainers.settings.base import deciding

    added = {"positive_weight", "turn_discount", "undesirable_weight", "target_margin"}
    assert not added & set(deciding(QUICK))
    assert deciding(replace(QUICK, turn_discount=0.5))["turn_discount"] == 0.5
    for wrong in ({"turn_discount": 1.0}, {"loss": "dmpo", "sft_weight": 0.1}):
        with pytest.raises(SettingsError):
            replace(QUICK, **wrong)
