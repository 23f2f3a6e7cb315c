"""In which precision a machine computes fastest."""

from __future__ import annotations

from pathlib import Path

DTYPES = ("auto", "hardware", "float32", "bfloat16", "float16")
"""Precisions of a model that plays; "auto" is that in which it was saved, and "hardware" bfloat16
where the device computes faster in it, or else that in which it was saved."""


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
    faster = multiplies_bf16() if device == "cpu" else torch.cuda.is_bf16_supported()
    return "bfloat16" if faster else "auto"


def multiplies_bf16() -> bool:
    """Whether the CPU multiplies matrices of bf16 faster than those of float32.

    AMX does; AVX-512 BF16 does on AMD's CPUs, at twice the rate. Intel's CPUs with AVX-512 BF16 and
    without AMX (or where a virtual machine hides it) take longer than in float32, others emulate
    bf16, longer still. Figures: benchmarks/results.md, "SmolLM2 on a CPU".
    """
    import torch

    # Names as torch has them.
    has = torch.cpu.get_capabilities()
    return bool(has.get("amx_bf16")) or (
        bool(has.get("avx512_bf16")) and vendor() != "GenuineIntel"
    )


def vendor() -> str:
    """Return the CPU's vendor as the CPU itself names it; "" where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("vendor_id")), ""
    )
