"""Muon on a CPU: PyTorch's update, in the precision of the weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from eto_gym.trainers.model.optimizers import Muon

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
