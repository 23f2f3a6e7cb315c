"""Preference pairs whose sides are several rows, of a bounded history."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from eto_gym.errors import DataError
from eto_gym.trainers import DPOSettings, make_pairs
from eto_gym.trainers.data.encoding import encode_pairs
from eto_gym.trainers.settings.data import PairingSettings
from eto_gym.trajectories.formats import read_pair, to_hf_preference, to_paper_dpo
from tests.trainers.methods.dpo_parts import (
    QUICK,
    Play,
    codec_of,
    double_logps,
    double_model,
    new_trainer,
    perturb,
    token_rows,
)

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


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
    rows = token_rows(tiny, pairs)
    assert [len(side) for row in rows for side in row.sides] == [2, 4, 3, 4, 4, 4]
    trainer = new_trainer(tiny, rows, settings, tmp_path)
    perturb(trainer.model, 0.01)
    batch = trainer._collate(list(trainer.train_dataset))
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(3))
    loss.backward()

    policy, reference = double_model(tiny, 0.01), double_model(tiny)
    expected = torch.zeros((), dtype=torch.float64)
    for row, item in zip(rows, trainer.train_dataset, strict=True):
        ratios = []
        for side, name in zip(row.sides, ("chosen", "rejected"), strict=True):
            scored = sum(double_logps(reference, r.ids, r.mask).detach() for r in side)
            assert item[f"ref_{name}_logps"] == pytest.approx(float(scored), rel=1e-5)
            ratio = sum(double_logps(policy, r.ids, r.mask) for r in side) - scored
            tokens = sum(r.trained for r in side)
            ratios.append(ratio / tokens if settings.length_normalization else ratio)
        term = -torch.log(torch.sigmoid(settings.beta * (ratios[0] - ratios[1])))
        if settings.sft_weight:
            chosen = sum(double_logps(policy, r.ids, r.mask) for r in row.sides[0])
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
    assert token_rows(tiny, wide) == token_rows(tiny, whole)


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
    (row,) = token_rows(tiny, pairs)
    lengths = [len(r.ids) for r in row.sides[1]]
    assert len(lengths) == 4
    limit = max(lengths) - 1
    with pytest.raises(DataError, match=f"the longest, task 'task-0', has {max(lengths)}"):
        encode_pairs(codec_of(tiny), pairs, max_length=limit)
    (cut,), report = encode_pairs(codec_of(tiny), pairs, max_length=limit, truncation="cut")
    kept = cut.sides[1]
    assert report.cut == 1
    assert sum(r.trained for r in kept) < sum(r.trained for r in row.sides[1])
    assert report.cut_turns == 5 - report.losses[0].kept
    for short, long in zip(kept, row.sides[1], strict=False):
        assert short.ids == long.ids[: len(short.ids)]
