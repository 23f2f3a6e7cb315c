"""Muon on a CPU: PyTorch's update, in the precision of the weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from eto_gym.trainers import SFTSettings
from eto_gym.trainers.model.optimizers import Muon, build_optimizer

# The coefficients of the quintic iteration.
A, B, C = 3.4445, -4.7750, 2.0315


def by_hand(
    start: torch.Tensor, gradients: list[torch.Tensor], *, rate: float, decay: float
) -> torch.Tensor:
    """Return the weights after some steps, by singular values in float64."""
    weights, momentum = start.double(), torch.zeros_like(start, dtype=torch.float64)
    for gradient in gradients:
        momentum = 0.95 * momentum + 0.05 * gradient.double()
        update = 0.05 * gradient.double() + 0.95 * momentum
        u, singular, v = torch.linalg.svd(update, full_matrices=False)
        singular = singular / singular.norm()
        for _ in range(5):
            singular = A * singular + B * singular**3 + C * singular**5
        scale = max(1.0, start.shape[0] / start.shape[1]) ** 0.5
        weights = weights * (1 - rate * decay) - rate * scale * (u * singular) @ v
    return weights


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (8, 8)])
def test_muon_equals_its_equation_and_nearly_pytorchs(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    start, other = torch.randn(shape), torch.randn(shape)
    gradients = [torch.randn(shape) for _ in range(3)]
    ours, beside, stock = (torch.nn.Parameter(x.clone()) for x in (start, other, start))
    idle = torch.nn.Parameter(torch.ones(4, 4))
    muon = Muon([ours, idle, beside], lr=0.02, weight_decay=0.1)
    original = torch.optim.Muon([stock], lr=0.02, weight_decay=0.1)
    for gradient in gradients:
        ours.grad, beside.grad, stock.grad = gradient.clone(), -gradient, gradient.clone()
        muon.step()
        original.step()  # type: ignore[no-untyped-call]
    expected = by_hand(start, gradients, rate=0.02, decay=0.1)
    torch.testing.assert_close(ours.double(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        beside.double(),
        by_hand(other, [-g for g in gradients], rate=0.02, decay=0.1),
        rtol=0,
        atol=1e-5,
    )
    assert (ours - stock).norm() < 0.02 * (stock - start).norm()  # bfloat16
    assert torch.equal(idle, torch.ones(4, 4))


def test_a_state_of_pytorchs_muon_is_taken_up() -> None:
    torch.manual_seed(0)
    first, second = (torch.nn.Parameter(torch.eye(3)) for _ in range(2))
    stock, muon = torch.optim.Muon([first]), Muon([second])
    gradient = torch.randn(3, 3)
    pairs: tuple[tuple[Any, Any], ...] = ((first, stock), (second, muon))
    for parameter, optimizer in pairs:
        parameter.grad = gradient.clone()
        optimizer.step()
    second.data.copy_(first.data)
    muon.load_state_dict(stock.state_dict())
    assert muon.state_dict()["state"].keys() == stock.state_dict()["state"].keys()
    for parameter, optimizer in pairs:
        parameter.grad = -2 * gradient
        optimizer.step()
    torch.testing.assert_close(first, second, rtol=0, atol=1e-3)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adamw_in_one_pass_is_pytorchs_up_to_rounding(decay: float) -> None:
    torch.manual_seed(0)
    ours = torch.nn.Linear(7, 5)
    stock = torch.nn.Linear(7, 5)
    stock.load_state_dict(ours.state_dict())
    settings = SFTSettings(learning_rate=1e-2, weight_decay=decay)
    optimizer = build_optimizer(ours, settings)
    groups = [
        {"params": [stock.weight], "weight_decay": decay},
        {"params": [stock.bias], "weight_decay": 0.0},
    ]
    plain = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, settings.adam_beta2), foreach=False)
    start = stock.weight.detach().clone()
    for _ in range(5):
        for own, weight in zip(ours.parameters(), stock.parameters(), strict=True):
            own.grad = torch.randn(own.shape)
            weight.grad = own.grad.clone()
        optimizer.step()
        plain.step()
    assert optimizer.defaults["fused"]
    assert (stock.weight - start).norm() > 0.1
    torch.testing.assert_close(
        list(ours.parameters()), list(stock.parameters()), rtol=1e-6, atol=1e-7
    )
    plain.load_state_dict(optimizer.state_dict())  # as a run that is resumed elsewhere does
    optimizer.load_state_dict(plain.state_dict())
