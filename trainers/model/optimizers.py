"""Optimizers (AdamW in its variants, Muon with AdamW) and the schedule of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

from eto_gym.errors import require
from eto_gym.trainers.model.cpu import alone_on_cpu
from eto_gym.trainers.settings.base import TrainSettings


class Muon(torch.optim.Muon):
    """`torch.optim.Muon`, in float32 on a CPU.

    PyTorch orthogonalises in bfloat16, which is fast on a GPU. A processor without instructions for
    bfloat16 emulates it: there, the orthogonalisation of a small model took 0.4 of its training.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Step once; matrices of one shape are orthogonalised together."""
        if any(p.device.type != "cpu" for group in self.param_groups for p in group["params"]):
            return super().step(closure)  # type: ignore[no-untyped-call]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            shapes: dict[torch.Size, list[torch.Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in shapes.items():
                updates = _orthogonalised(
                    torch.stack([self._momentum(p, group) for p in parameters]),
                    coefficients=group["ns_coefficients"],
                    steps=group["ns_steps"],
                    eps=group["eps"],
                )
                rate = group["lr"] * math.sqrt(max(1.0, shape[0] / shape[1]))
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update, alpha=-rate)
        return loss

    def _momentum(self, parameter: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
        """Return Nesterov's update of `parameter` from its gradient, in float32."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter.grad)
        buffer = state["momentum_buffer"]
        buffer.lerp_(parameter.grad, 1 - group["momentum"])
        return parameter.grad.lerp(buffer, group["momentum"]).float()


def _orthogonalised(
    matrices: torch.Tensor, *, coefficients: tuple[float, float, float], steps: int, eps: float
) -> torch.Tensor:
    """Bring the singular values of `matrices`, (N, rows, columns), near 1.

    Newton and Schulz's iteration in its quintic form, X <- aX + (bA + cA^2) X with A = X X^T
    (https://kellerjordan.github.io/posts/muon).
    """
    a, b, c = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT  # (N, rows, rows)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class MuonWithAdamW(torch.optim.Optimizer):
    """Steps `Muon` on hidden weight matrices and AdamW on everything else.

    Muon orthogonalises the update of a matrix. Embeddings, the output layer, norms and biases are
    not such matrices and stay with AdamW, as Muon's author advises.
    """

    def __init__(self, muon: Muon, adamw: torch.optim.AdamW) -> None:
        """Join both; a scheduler scales the rates of both groups alike."""
        self._parts = (muon, adamw)
        super().__init__([*muon.param_groups, *adamw.param_groups], {})
        self._share_groups()

    def _share_groups(self) -> None:
        self.param_groups = [group for part in self._parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Step both optimizers."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both."""
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the states of both."""
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share_groups()


def build_optimizer(model: torch.nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """Build the optimizer that `settings.optimizer` names, for the trainable weights of `model`.

    Weight decay is applied to matrices only: decaying norms and biases does harm and saves nothing.

    Raises:
        MissingDependencyError: It is an 8-bit one, and bitsandbytes is not installed.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    betas = (0.9, settings.adam_beta2)
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "muon":
        outer = {id(p) for p in _embedding_weights(model)}
        matrices = [p for _, p in named if p.ndim == 2 and id(p) not in outer]
        rest = [p for _, p in named if p.ndim != 2 or id(p) in outer]
        return MuonWithAdamW(
            Muon(matrices, lr=settings.muon_learning_rate, weight_decay=decay),
            torch.optim.AdamW(rest, lr=rate, betas=betas, weight_decay=0.0, fused=_fused(rest)),
        )
    groups = [
        {"params": [p for _, p in named if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for _, p in named if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=rate, betas=betas, fused=_fused([p for _, p in named]))
    bitsandbytes = require("bitsandbytes", feature="an 8-bit optimizer", extra="qlora")
    kinds = {
        "adamw8bit": bitsandbytes.optim.AdamW8bit,
        "paged_adamw8bit": bitsandbytes.optim.PagedAdamW8bit,
    }
    optimizer: torch.optim.Optimizer = kinds[settings.optimizer](groups, lr=rate, betas=betas)
    return optimizer


def _fused(parameters: Iterable[torch.Tensor]) -> bool | None:
    """Whether AdamW takes one pass over each weight: in one process on a CPU.

    There it otherwise takes ten, and most of these make a tensor of the weight's size. None: as
    PyTorch does by default, and so wherever weights may yet be moved, or spread over processes.
    """
    return True if alone_on_cpu() and all(p.device.type == "cpu" for p in parameters) else None


def _embedding_weights(model: Any) -> Iterable[torch.Tensor]:
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        if layer is not None:
            yield layer.weight


def warmup_schedule(
    optimizer: torch.optim.Optimizer, settings: TrainSettings, steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Return the schedule: a linear rise, then what `settings.schedule` names.

    The first step already has a rate above zero, as the last one does: in a run of a dozen steps,
    each counts.
    """
    warmup = math.ceil(steps * settings.warmup_ratio)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = (step - warmup) / max(1, steps - warmup)
        if settings.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return max(0.0, 1 - done) if settings.schedule == "linear" else 1.0

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
