"""In which precision, and by which kernels, a machine computes fastest."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eto_gym.agents.memory import return_freed_memory

DTYPES = ("auto", "hardware", "float32", "bfloat16", "float16")
"""Precisions of a model that plays; "auto" is that in which it was saved, and "hardware" bfloat16
where the device computes faster in it, or else that in which it was saved."""

MANY_ROWS = 32
"""Tokens of a pass from which on four-bit weights are read faster by expanding them first, and for
which bf16 weights are laid out."""


def played_dtype(dtype: str, device: str = "auto") -> str:
    """Return what "hardware" means on a device; other precisions as they are.

    Args:
        dtype: One of `DTYPES`.
        device: Where the model plays: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1".
    """
    if dtype != "hardware":
        return dtype
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        faster = multiplies_bf16()
    else:
        faster = device.startswith("cuda") and torch.cuda.is_bf16_supported()
    return "bfloat16" if faster else "auto"


def hold_onednn() -> None:
    """Hold oneDNN to AVX2 where `ATEN_CPU_CAPABILITY` holds torch itself below AVX-512.

    Otherwise torch's attention in bf16 fails on a CPU with AMX: it lays matrices out as oneDNN
    wants them there, by a kernel that it has for AVX-512 alone. It works before oneDNN is first
    used; what is set for oneDNN by hand stays.
    """
    if _is_held():
        os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")


def _is_held() -> bool:
    return os.environ.get("ATEN_CPU_CAPABILITY", "").lower() in ("default", "avx2")


def multiplies_bf16() -> bool:
    """Whether the CPU multiplies matrices of bf16 faster than those of float32.

    AMX does; AVX-512 BF16 does on AMD's CPUs, at twice the rate. Intel's CPUs with AVX-512 BF16 and
    without AMX (or where a virtual machine hides it) take longer than in float32, others emulate
    bf16, longer still. Figures: benchmarks/results.md, "SmolLM2 on a CPU". What
    `ATEN_CPU_CAPABILITY` holds torch to has none of these.
    """
    if _is_held():
        return False
    import torch

    # Names as torch has them.
    has = torch.cpu.get_capabilities()
    return bool(has.get("amx_bf16")) or (
        bool(has.get("avx512_bf16")) and vendor() != "GenuineIntel"
    )


def expand_for_many_rows(model: Any) -> None:
    """Let four-bit layers that play on a CPU expand their weights where a pass has many tokens.

    Where a CPU has AVX-512 BF16, bitsandbytes repacks four-bit weights at their first use, for a
    kernel that takes a third to a half of the time where few tokens are read, and three times as
    long where many are, as in prompts: benchmarks/results.md, "Four bits on a CPU". Both are right
    but for rounding. So each layer keeps both forms, which takes another half a byte a weight.

    Args:
        model: A model in eval mode on a CPU, which is not trained.
    """
    if not multiplies_bf16():
        return
    from bitsandbytes.nn.modules import Linear4bit

    layers: list[Any] = [layer for layer in model.modules() if isinstance(layer, Linear4bit)]
    for layer in layers:
        if layer.support_avx512bf16_for_cpu:
            few = copy.deepcopy(layer)  # repacks itself, unlike the layer
            layer.support_avx512bf16_for_cpu = False
            layer.forward = _by_rows(few, layer.forward)


def _by_rows(few: Callable[[Any], Any], many: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def forward(x: Any) -> Any:
        return (few if x.numel() < MANY_ROWS * x.shape[-1] else many)(x)

    return forward


def pack_weights(model: Any) -> None:
    """Lay the bf16 weights of a model that plays on a CPU out once, as the CPU multiplies by them.

    oneDNN does that anew in each pass, which takes up to half of a layer's time where few tokens
    are read, as in saying a reply. The products are the same to the bit, with several threads in
    passes of few tokens alone (hundreds are parted among threads in another way). The plain form is
    dropped (a layer's `weight` then has rows without columns, and its buffer `packed` is what is
    multiplied by), unless an embedding has it too or the model reads it beside the layer. Figures:
    benchmarks/results.md, "SmolLM2 on a CPU with AMX".

    Models with an adapter stay as they are: some adapters read the weights that they are put on.

    Args:
        model: A model in eval mode on a CPU, which is neither trained nor saved.
    """
    import torch

    if hasattr(model, "peft_config") or not (multiplies_bf16() and _onednn_takes_bf16()):
        return
    embedded = model.get_input_embeddings().weight
    layers: list[Any] = [layer for layer in model.modules() if type(layer) is torch.nn.Linear]
    plain = {}
    for layer in layers:
        if layer.weight.dtype != torch.bfloat16:
            continue
        layer.forward = _packed_linear(layer)
        if layer.weight is not embedded:
            plain[layer] = layer.weight
            # Not one on the device "meta": torch 2.13 multiplies by that, and gives numbers.
            nothing = layer.weight.detach().new_empty((layer.out_features, 0))
            layer.weight = torch.nn.Parameter(nothing, requires_grad=False)
    if plain and not _answers(model):
        for layer, weight in plain.items():
            layer.weight = weight
    plain.clear()
    return_freed_memory()


def _onednn_takes_bf16() -> bool:
    """Whether this torch has oneDNN, and its instructions are not held back by the environment."""
    import torch

    available: Callable[[], bool] = torch.backends.mkldnn.is_available
    return available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _answers(model: Any) -> bool:
    """Whether a pass over a token goes through."""
    import torch

    try:
        with torch.inference_mode():
            model(input_ids=torch.zeros((1, 1), dtype=torch.long))
    except RuntimeError:  # shapes do not fit
        return False
    return True


def _packed_linear(layer: Any) -> Callable[[Any], Any]:
    import torch

    # What is laid out for MANY_ROWS serves fewer and more, with the sums in the same order.
    packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), MANY_ROWS)
    layer.register_buffer("packed", packed, persistent=False)
    bias = None if layer.bias is None else layer.bias.detach()

    def forward(x: Any) -> Any:
        return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")

    return forward


def vendor() -> str:
    """Return the CPU's vendor as the CPU itself names it; "" where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("vendor_id")), ""
    )
