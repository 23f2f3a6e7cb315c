from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainers.methods.ppo_parts import QUICK, Play, new_trainer, token_rows

torch = pytest.importorskip("torch")
from eto_gym.trainers.methods.ppo_losses import (  # noqa: E402
    advantages_of,
    divergence,
    estimate,
    policy_losses,
    value_losses,
)
from eto_gym.trainers.methods.row_forests import turn_numbers  # noqa: E402


def test_turns_are_runs_of_marks() -> None:
    mask = [False, True, True, False, True, False, False, True, True]
    assert turn_numbers(mask).tolist() == [0, 0, 1, 2, 2]


@given(
    turns=st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2)), min_size=1, max_size=8),
    gamma=st.floats(0, 1),
    lam=st.floats(0, 1),
)
def test_advantages_equal_their_definition(
    turns: list[tuple[float, float]], gamma: float, lam: float
) -> None:
    """The sum over later turns of (gamma lambda)^k times the one-step surprise."""
    rewards = [reward for reward, _ in turns]
    values = [value for _, value in turns] + [0.0]
    surprises = [r + gamma * values[t + 1] - values[t] for t, r in enumerate(rewards)]
    expected = [
        sum((gamma * lam) ** (k - t) * surprises[k] for k in range(t, len(turns)))
        for t in range(len(turns))
    ]
    got = advantages_of(
        torch.tensor(rewards), torch.tensor(values[:-1]), gamma=gamma, gae_lambda=lam
    )
    assert got.tolist() == pytest.approx(expected, abs=1e-4)


def test_advantages_without_bootstrap_are_returns_above_values() -> None:
    rewards, values = torch.tensor([0.0, 0.5, 1.0]), torch.tensor([0.3, 0.2, 0.9])
    got = advantages_of(rewards, values, gamma=1.0, gae_lambda=1.0)
    assert got.tolist() == pytest.approx([1.5 - 0.3, 1.5 - 0.2, 1.0 - 0.9])


def test_clipped_loss_has_no_gradient_outside_the_clip() -> None:
    old = torch.zeros(4)
    logps = torch.tensor([math.log(1.5), math.log(1.5), math.log(0.5), math.log(0.5)])
    logps.requires_grad_()
    losses, outside = policy_losses(logps, old, torch.tensor([1.0, -1.0, 1.0, -1.0]), 0.2)
    assert losses.tolist() == pytest.approx([-1.2, 1.5, -0.5, 0.8])
    assert outside.all()
    losses.sum().backward()  # type: ignore[no-untyped-call]
    # What is already too likely is not made likelier; what moved the wrong way still comes back.
    assert logps.grad.tolist() == pytest.approx([0.0, 1.5, -0.5, 0.0])


def test_values_gain_nothing_by_a_move_beyond_the_clip() -> None:
    values, before = torch.tensor([0.9, 0.9, 0.1]), torch.tensor([0.0, 0.0, 0.0])
    returns = torch.tensor([1.0, -1.0, 1.0])
    assert value_losses(values, before, returns, 0.0).tolist() == pytest.approx([0.01, 3.61, 0.81])
    clipped = value_losses(values, before, returns, 0.2).tolist()
    assert clipped == pytest.approx([0.64, 3.61, 0.81])


def test_divergence_is_estimated_from_tokens_of_the_old_policy() -> None:
    now, old = torch.tensor([0.7, 0.3]), torch.tensor([0.5, 0.5])
    exact = (old * (old / now).log()).sum()
    assert (old * divergence(now.log(), old.log())).sum().item() == pytest.approx(exact.item())
    assert (divergence(now.log(), old.log()) > 0).all()


def test_scores_equal_hand_computed_doubles(tiny: Path, make_play: Play, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    plays = [make_play(n, rounds=1 + n) for n in range(3)]
    rows = token_rows(tiny, plays)
    trainer = new_trainer(tiny, tmp_path, QUICK)
    torch.nn.init.normal_(trainer.head.linear.weight, generator=torch.Generator().manual_seed(0))
    exact: Any = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float64)
    weight = trainer.head.linear.weight.double()[0]
    for row, scores in zip(rows, trainer.score(rows), strict=True):
        output = exact(input_ids=torch.tensor([row.ids]), output_hidden_states=True)
        logits, states = output.logits[0].log_softmax(-1), output.hidden_states[-1][0]
        marked = [i for i, kept in enumerate(row.mask) if kept]
        assert scores.logps.tolist() == pytest.approx(
            [logits[i - 1, row.ids[i]].item() for i in marked], rel=1e-4
        )
        starts = [i for i in marked if not row.mask[i - 1]]
        assert scores.values.tolist() == pytest.approx(
            [(states[i - 1] @ weight).item() for i in starts], abs=1e-4
        )
        assert scores.reference is not None
        assert torch.equal(scores.reference, scores.logps)


def test_what_was_not_moved_has_ratio_one_whatever_the_dropout(
    tiny: Path, make_play: Play, tmp_path: Path
) -> None:
    rows = token_rows(tiny, [make_play(0, rounds=2)])
    trainer = new_trainer(tiny, tmp_path, replace(QUICK, lora_r=4, lora_dropout=0.5))
    for name, parameter in trainer.bare.named_parameters():
        parameter.data += 0.1 * ("lora_B" in name)  # adapters that do something
    (played,) = trainer.score(rows)
    trainer.model.train()
    labels = torch.tensor(
        [[i if m else -100 for i, m in zip(rows[0].ids, rows[0].mask, strict=True)]]
    )
    found = trainer.model(input_ids=torch.tensor([rows[0].ids]), score=labels)
    learnt = found["token_logps"]
    assert learnt.tolist() == pytest.approx(played.logps.tolist(), abs=1e-5)


def test_the_kl_price_is_taken_off_the_turn_that_moved(
    tiny: Path, make_play: Play, tmp_path: Path
) -> None:
    rows = token_rows(tiny, [make_play(0, rounds=2)])
    settings = replace(QUICK, kl_weight=0.5, normalize_advantages=False)
    trainer = new_trainer(tiny, tmp_path, settings)
    played, moved = estimate([rows], [[0.0, 1.0]], trainer.score(rows), settings)
    assert moved == pytest.approx(0, abs=1e-6)
    assert played[0].rewards.tolist() == pytest.approx([0.0, 1.0], abs=1e-5)
    for parameter in trainer.bare.parameters():
        parameter.data += 0.02 * torch.randn(
            parameter.shape, generator=torch.Generator().manual_seed(1)
        )
    (scores,) = trainer.score(rows)
    played, moved = estimate([rows], [[0.0, 1.0]], [scores], settings)
    assert scores.reference is not None
    ratio = scores.logps - scores.reference
    assert moved == pytest.approx(ratio.mean().item(), abs=1e-5)
    turns = turn_numbers(rows[0].mask)
    price = [0.5 * ratio[turns == turn].sum().item() for turn in (0, 1)]
    assert played[0].rewards.tolist() == pytest.approx([-price[0], 1.0 - price[1]], abs=1e-4)
