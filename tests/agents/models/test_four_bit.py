"""Four-bit weights on a CPU: which kernel reads how many tokens."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from eto_gym.agents.models import hardware

bitsandbytes = pytest.importorskip("bitsandbytes")


class _Counted(torch.nn.Module):
    def __init__(self, forward: Any) -> None:
        super().__init__()
        self.asked: list[int] = []
        self._forward = forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.asked.append(x.numel() // x.shape[-1])
        out: torch.Tensor = self._forward(x)
        return out


def _layer() -> Any:
    torch.manual_seed(0)
    layer = bitsandbytes.nn.Linear4bit(
        64, 96, bias=False, quant_type="nf4", compute_dtype=torch.float32
    )
    layer.weight = bitsandbytes.nn.Params4bit(
        torch.randn(96, 64), requires_grad=False, quant_type="nf4"
    )
    return layer.to("cpu").eval()


@pytest.mark.parametrize(
    ("shape", "few"), [((1, 1), True), ((31, 1), True), ((1, 32), False), ((2, 20), False)]
)
def test_many_rows_are_read_with_expanded_weights(
    shape: tuple[int, int], few: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "multiplies_bf16", lambda: True)
    x = torch.randn(*shape, 64)
    plain = _layer()
    plain.support_avx512bf16_for_cpu = False
    layer = _layer()
    layer.support_avx512bf16_for_cpu = True
    model = torch.nn.Sequential(layer)
    counted: list[_Counted] = []

    def copied(layer: Any) -> _Counted:
        counted.append(_Counted(lambda y: y[..., :1].expand(*y.shape[:-1], 96)))
        return counted[-1]

    monkeypatch.setattr(copy, "deepcopy", copied)
    names = list(model.state_dict())
    hardware.expand_for_many_rows(model)
    with torch.inference_mode():
        out = model(x)
        assert len(counted[0].asked) == int(few)
        if not few:
            assert torch.equal(out, plain(x))
    assert list(model.state_dict()) == names, "what is saved of the model stays"


@pytest.mark.skipif(
    not bitsandbytes.functional.has_avx512bf16(), reason="the CPU has no AVX-512 BF16"
)
def test_both_kernels_say_the_same_but_for_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "multiplies_bf16", lambda: True)
    layer = _layer()
    layer.compute_dtype = torch.bfloat16
    model = torch.nn.Sequential(layer)
    hardware.expand_for_many_rows(model)
    x = torch.randn(hardware.MANY_ROWS, 64)
    with torch.inference_mode():
        many = model(x)
        few = torch.cat([model(x[i : i + 4]) for i in range(0, len(x), 4)])
    assert not torch.equal(many, few), "two kernels"
    torch.testing.assert_close(few, many, atol=0.05 * float(many.std()), rtol=0.05)


def test_a_cpu_without_bf16_keeps_what_the_library_chooses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hardware, "multiplies_bf16", lambda: False)
    model = torch.nn.Sequential(_layer())
    before = dict(vars(model[0]))
    hardware.expand_for_many_rows(model)
    assert vars(model[0]).keys() == before.keys()
