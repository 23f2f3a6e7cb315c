"""What training needs to know of the CPU and its memory."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

import torch

BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")
"""Names, as `torch.cpu.get_capabilities` has them, of the instructions that multiply bf16."""


def multiplies_bf16() -> bool:
    """Whether the CPU has instructions for products of bf16; without, it emulates them slowly."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in BF16_INSTRUCTIONS)


def return_freed_memory() -> None:
    """Return what the C library holds of freed memory to the system; only glibc can be told to.

    glibc keeps freed tensors of up to 32 MB for later ones. Where the rows of a pass differ in
    length from those of the next, the later ones do not fit, and the process grows.
    """
    if (trim := _malloc_trim()) is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    """Return glibc's function, or None where the process runs on another C library."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # TypeError: Windows has no library of that name
        return None
