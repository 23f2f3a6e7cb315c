"""Lets layers keep less for the backward pass on a CPU: they compute the same, from fewer copies.

What PyTorch keeps for the gradients of a small model is, for the most part, made of what it keeps
anyway: normalised states beside the states, the gate's activation and its product beside both
factors, and under autocast every weight and every layer's input again in bf16. Here each of these
is made again in the backward pass, where it costs a pass over memory, and no product of matrices.

The layers are those of transformers that do what is known here; this is found by their types and
names and by comparing them with themselves. All others stay as they are, and so does everything on
a GPU, where compiled kernels do this better.
"""

from __future__ import annotations

import types
import weakref
from functools import partial
from typing import Any

import torch
from torch.nn import functional

ROWS = 64
"""States that a norm takes at a time: few enough to stay in a core's cache."""


def keep_less(model: Any, *, products: bool = False) -> bool:
    """Let the norms, linear layers and gated networks of a model keep less on a CPU.

    Losses are those of before: exactly but for the gradients of norms, which are summed in another
    order. Not for models whose layers are computed again as a whole, which keep nothing already.

    Args:
        model: A model of transformers itself, not a wrapper of PEFT around it. Weights under
            adapters, which are not trained, are not looked at.
        products: Make the wide products of gated networks again too, a tenth of all products, and
            most of what is still kept.

    Returns:
        Whether there are such networks, and so such products.
    """
    networks = 0
    for module in model.modules():
        if type(module) is torch.nn.Linear:
            module.forward = types.MethodType(_linear, module)  # type: ignore[method-assign]
        elif _is_gated(module):
            networks += _replace(module, partial(_gated_network, again=products))
        elif _is_norm(module):
            _replace(module, _norm)
    return networks > 0


def _replace(module: Any, forward: Any) -> bool:
    """Give a module another way to compute, where a few random states show it to be the same."""
    before = vars(module).get("_plain", module.forward)
    weight = next(module.parameters())
    states = torch.randn(5, weight.shape[-1], generator=torch.Generator().manual_seed(0))
    module.forward = types.MethodType(forward, module)
    module._plain = before
    with torch.enable_grad():  # without, both would be the same function
        if not torch.allclose(module(states), before(states), rtol=1e-5, atol=1e-6):
            module.forward = before
            return False
    return True


def _trained(weight: torch.Tensor) -> bool:
    return weight.requires_grad and weight.device.type == "cpu" and weight.dtype == torch.float32


# --- norms ---------------------------------------------------------------------------------------


def _is_norm(module: Any) -> bool:
    return (
        type(module).__name__.endswith("RMSNorm")
        and hasattr(module, "variance_epsilon")
        and [name for name, _ in module.named_parameters()] == ["weight"]
        and _trained(module.weight)
    )


def _norm(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    whole = hidden_states.dtype == torch.float32
    if not (torch.is_grad_enabled() and whole and _trained(self.weight)):
        plain: torch.Tensor = self._plain(hidden_states)
        return plain
    found: torch.Tensor = _Norm.apply(hidden_states, self.weight, self.variance_epsilon)  # type: ignore[no-untyped-call]
    return found


class _Norm(torch.autograd.Function):
    """Root mean square norm that keeps its input and one number of each state."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        flat = states.reshape(-1, states.shape[-1])  # (N, width)
        output, scales = torch.empty_like(flat), flat.new_empty(len(flat), 1)
        parts = (torch.split(t, ROWS) for t in (flat, output, scales))
        for x, y, scale in zip(*parts, strict=True):
            torch.mul(x, x, out=y)
            torch.rsqrt(y.mean(-1, keepdim=True) + eps, out=scale)
            torch.mul(x, scale, out=y).mul_(weight)
        ctx.save_for_backward(states, weight, scales)
        return output.view(states.shape)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        states, weight, scales = ctx.saved_tensors
        flat, outer = (t.reshape(-1, t.shape[-1]) for t in (states, grads[0]))
        inner, of_weight = torch.empty_like(flat), torch.zeros_like(weight)
        parts = (torch.split(t, ROWS) for t in (flat, outer, scales, inner))
        for x, g, scale, result in zip(*parts, strict=True):
            normal = x * scale
            of_weight += (g * normal).sum(0)
            torch.mul(g, weight, out=result)
            result.sub_(normal.mul_((result * normal).mean(-1, keepdim=True))).mul_(scale)
        return inner.view(states.shape), of_weight, None


# --- linear layers -------------------------------------------------------------------------------


def _linear(self: Any, input: torch.Tensor) -> torch.Tensor:
    if not (torch.is_grad_enabled() and _lowers(input) and _trained(self.weight)):
        return functional.linear(input, self.weight, self.bias)
    low = _LOWERED.get(input, torch.get_autocast_dtype("cpu"))
    found: torch.Tensor = _Linear.apply(input, self.weight, self.bias, low)  # type: ignore[no-untyped-call]
    return found


def _lowers(states: torch.Tensor) -> bool:
    """Whether autocast computes with these states in a lower precision."""
    return states.device.type == "cpu" and torch.is_autocast_enabled("cpu")


class _Lowered:
    """The last states in lower precision, for all layers that read the same ones."""

    def __init__(self) -> None:
        self._known: Any = lambda: None
        self._version = -1
        self._low: Any = None

    def get(self, states: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return `states` in `dtype`, without a gradient."""
        if states.dtype == dtype:
            return states.detach()
        same = self._known() is states and self._version == states._version
        if not same or self._low.dtype != dtype:
            self._known, self._version = weakref.ref(states), states._version
            self._low = states.detach().to(dtype)
        low: torch.Tensor = self._low
        return low


_LOWERED = _Lowered()


class _Linear(torch.autograd.Function):
    """A linear layer as autocast computes it, that keeps no weights in lower precision."""

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, weight: torch.Tensor, bias: Any, low: torch.Tensor
    ) -> torch.Tensor:
        ctx.dtype = states.dtype
        ctx.save_for_backward(low, weight)
        lower_bias = None if bias is None else bias.to(low.dtype)
        return functional.linear(low, weight.to(low.dtype), lower_bias)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        low, weight = ctx.saved_tensors
        of_states = of_bias = None
        outer = grads[0].reshape(-1, grads[0].shape[-1])  # (N, out)
        if ctx.needs_input_grad[0]:
            of_states = (outer @ weight.to(outer.dtype)).view(low.shape).to(ctx.dtype)
        if ctx.needs_input_grad[2]:
            of_bias = outer.sum(0).to(weight.dtype)
        of_weight = (outer.t() @ low.reshape(-1, low.shape[-1])).to(weight.dtype)
        return of_states, of_weight, of_bias, None


# --- gated networks ------------------------------------------------------------------------------


def _is_gated(module: Any) -> bool:
    if not isinstance(getattr(module, "act_fn", None), torch.nn.SiLU | _silu_class()):
        return False
    children = {name for name, _ in module.named_children()}
    return children == {*_PARTS, "act_fn"} and _plain_parts(module)


_PARTS = ("gate_proj", "up_proj", "down_proj")


def _plain_parts(module: Any) -> bool:
    parts = [getattr(module, name) for name in _PARTS]
    return all(type(p) is torch.nn.Linear and p.bias is None and _trained(p.weight) for p in parts)


def _silu_class() -> type:
    from transformers.activations import ACT2FN

    return type(ACT2FN["silu"])


def _gated_network(self: Any, x: torch.Tensor, *, again: bool = False) -> torch.Tensor:
    lowers = _lowers(x)
    alike = lowers or x.dtype == self.down_proj.weight.dtype
    if not (torch.is_grad_enabled() and alike and _plain_parts(self)):
        plain: torch.Tensor = self._plain(x)
        return plain
    found: torch.Tensor
    if again:
        low = _LOWERED.get(x, torch.get_autocast_dtype("cpu") if lowers else x.dtype)
        weights = [getattr(self, name).weight for name in _PARTS]
        found = _GatedNetwork.apply(x, *weights, low)  # type: ignore[no-untyped-call]
    else:
        gate, up = self.gate_proj(x), self.up_proj(x)
        found = _GatedDown.apply(gate, up, self.down_proj.weight)  # type: ignore[no-untyped-call]
    return found


class _GatedDown(torch.autograd.Function):
    """The last layer of silu(gate) * up, that keeps only the two factors."""

    @staticmethod
    def forward(
        ctx: Any, gate: torch.Tensor, up: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(gate, up, weight)
        return functional.linear(functional.silu(gate).mul_(up), weight.to(gate.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        gate, up, weight = ctx.saved_tensors
        return _back_through_down(gate, up, weight, grads[0])


class _GatedNetwork(torch.autograd.Function):
    """The whole network, that keeps only its input, and makes both factors again."""

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        gate: torch.Tensor,
        up: torch.Tensor,
        down: torch.Tensor,
        low: torch.Tensor,
    ) -> torch.Tensor:
        ctx.dtype = states.dtype
        ctx.save_for_backward(gate, up, down, low)
        product = functional.silu(functional.linear(low, gate.to(low.dtype)))
        product *= functional.linear(low, up.to(low.dtype))
        return functional.linear(product, down.to(low.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        gate, up, down, low = ctx.saved_tensors
        gated, wide = (functional.linear(low, weight.to(low.dtype)) for weight in (gate, up))
        *of_factors, of_down = _back_through_down(gated, wide, down, grads[0])
        del gated, wide
        flat = low.reshape(-1, low.shape[-1])  # (N, width)
        of_states, of_weights = None, []
        for weight, outer in zip((gate, up), of_factors, strict=True):
            outer = outer.reshape(-1, outer.shape[-1])  # (N, inner)
            of_weights.append((outer.t() @ flat).to(weight.dtype))
            part = (outer @ weight.to(outer.dtype)).view(low.shape).to(ctx.dtype)
            of_states = part if of_states is None else of_states.add_(part)
        return of_states, *of_weights, of_down, None


def _back_through_down(
    gate: torch.Tensor, up: torch.Tensor, weight: torch.Tensor, grad: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of both factors, (..., inner), and of the weight of the last layer."""
    outer = grad.reshape(-1, grad.shape[-1])  # (N, width)
    active = functional.silu(gate)
    product = (active * up).reshape(-1, gate.shape[-1])
    of_weight = (outer.t() @ product).to(weight.dtype)
    del product
    of_product = (outer @ weight.to(outer.dtype)).view(gate.shape)
    of_up = active.mul_(of_product)
    of_gate = torch.ops.aten.silu_backward(of_product.mul_(up), gate)
    return of_gate, of_up, of_weight
