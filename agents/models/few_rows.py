"""Weights laid out for products of few rows, which is what a player computes on a CPU."""

from __future__ import annotations

from typing import Any

import torch


def for_few_rows(model: Any) -> None:
    """Lay the float32 weights of linear layers on a CPU out by columns; shapes and values stay.

    In a decoding step few rows meet each weight. The library then spends up to half of the time on
    copying the weight into the order in which it reads it, and needs no copy of one that lies by
    columns. Figures: benchmarks/results.md, "The local player on a CPU". A weight that an embedding
    shares is left, since that one is read by rows; so are other precisions, for which other
    libraries compute.

    Args:
        model: A model that plays. If a weight is laid out, all that it was loaded with moves to
            memory of its own, which processes that loaded the same file no longer share.
    """
    rows = {
        module.weight.data_ptr()
        for module in model.modules()
        if isinstance(module, torch.nn.Embedding)
    }
    laid = False
    for module in model.modules():
        if type(module) is not torch.nn.Linear:  # quantized kinds derive from it
            continue
        weight = module.weight
        plain = weight.device.type == "cpu" and weight.dtype == torch.float32
        if plain and weight.data_ptr() not in rows:
            weight.data = weight.data.t().contiguous().t()  # (out, in), strides (1, out)
            laid = True
    # A file that is mapped into memory stays there whole as long as one tensor lies in it.
    for parameter in model.parameters():
        if laid and parameter.is_contiguous():
            parameter.data = parameter.data.clone()
