"""Offloads activations to the host's memory between forward and backward pass."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from typing import Any, NamedTuple

import torch

SMALLEST = 1 << 16
"""Tensors below this size, in bytes, stay where they are: moving them costs more than it frees."""

RECENT = 6
"""Tensors that are kept until this many others were copied: a tensor that several layers read, as
queries, keys and values do, is saved by each, and must be copied once."""


class _Moved(NamedTuple):
    device: torch.device
    copy: torch.Tensor


class _Recent(NamedTuple):
    original: torch.Tensor  # while it is held, no other tensor can take its place in memory
    moved: _Moved


class OffloadActivations(torch.autograd.graph.saved_tensors_hooks):
    """Copies what the forward pass saves to the host, and back when the backward pass needs it.

    Weights stay where they are, and a tensor that several operations save is copied once. On a CPU
    nothing would be freed: use `activations_of`, which offloads on an accelerator only.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        """Note where the weights of `model` are."""
        self._weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self._recent: OrderedDict[tuple[Any, ...], _Recent] = OrderedDict()
        super().__init__(self._pack, self._unpack)

    def __exit__(self, *args: object) -> None:
        """Let go of the last tensors; the copies live on in the graph."""
        self._recent.clear()
        super().__exit__(*args)

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor | _Moved:
        place = tensor.untyped_storage().data_ptr()
        if tensor.nbytes < SMALLEST or place in self._weights:
            return tensor
        key = (place, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor._version)
        if key not in self._recent:
            pinned = tensor.device.type == "cuda"
            copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
            copy.copy_(tensor, non_blocking=pinned)
            self._recent[key] = _Recent(tensor, _Moved(tensor.device, copy))
            if len(self._recent) > RECENT:
                self._recent.popitem(last=False)
        return self._recent[key].moved

    def _unpack(self, saved: torch.Tensor | _Moved) -> torch.Tensor:
        if isinstance(saved, _Moved):
            return saved.copy.to(saved.device, non_blocking=True)
        return saved


def activations_of(
    model: torch.nn.Module, device: torch.device, *, offload: bool
) -> contextlib.AbstractContextManager[Any]:
    """Return what to run a forward pass in; it does nothing on a CPU, or without `offload`."""
    if offload and device.type != "cpu":
        return OffloadActivations(model)
    return contextlib.nullcontext()
