"""Weights that are laid out once for playing compute what the plain ones do."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from eto_gym.agents.models import hardware
from eto_gym.agents.models.hardware import pack_weights
from eto_gym.agents.models.loading import load_model

needs_bf16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN has no bf16 on this CPU"
)


@pytest.fixture(autouse=True)
def _multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "multiplies_bf16", lambda: True)


def llama(*, tied: bool, bias: bool = False) -> Any:
    """Return a random model of 16 bits."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96, hidden_size=64, intermediate_size=160, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied,
        attention_bias=bias,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config)
    return model.to(torch.bfloat16).eval()


@needs_bf16
@pytest.mark.parametrize("tokens", [1, 16, 33, 300])
@pytest.mark.parametrize(("tied", "bias"), [(True, False), (False, True)])
@torch.inference_mode()
def test_packed_weights_compute_the_same(tokens: int, tied: bool, bias: bool) -> None:
    model = llama(tied=tied, bias=bias)
    if bias:
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    ids = torch.randint(0, 96, (1, tokens))
    plain = model(input_ids=ids).logits
    pack_weights(model)
    # To the bit on CPUs that multiply bf16 themselves; others may sum in another order.
    torch.testing.assert_close(model(input_ids=ids).logits, plain, atol=0.02, rtol=0.02)


@needs_bf16
def test_the_plain_form_is_dropped_where_nothing_else_has_it() -> None:
    model = llama(tied=True)
    pack_weights(model)
    for layer in model.model.layers:
        assert layer.mlp.up_proj.weight.shape == (160, 0)
        assert layer.mlp.up_proj.packed.shape == (160, 64)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.device.type == "cpu"
    assert model.dtype == torch.bfloat16

    model = llama(tied=False)
    pack_weights(model)
    assert not model.lm_head.weight.numel()


@needs_bf16
def test_a_weight_that_the_model_reads_itself_stays() -> None:
    model = llama(tied=True)
    mlp = model.model.layers[1].mlp
    mlp.forward = lambda x: mlp.down_proj(torch.nn.functional.linear(x, mlp.up_proj.weight))
    ids = torch.arange(5)[None]
    plain = model(input_ids=ids).logits
    pack_weights(model)
    assert mlp.up_proj.weight.numel()
    torch.testing.assert_close(model(input_ids=ids).logits, plain, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("case", ["float32", "adapter"])
def test_other_models_stay_as_they_are(case: str) -> None:
    model = llama(tied=False)
    if case == "adapter":
        peft = pytest.importorskip("peft")
        model = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["up_proj"]))
    else:
        model = model.float()
    pack_weights(model)
    assert all(parameter.numel() for parameter in model.parameters())
    assert not any("forward" in vars(module) for module in model.modules())


def test_onednn_without_bf16_packs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where ONEDNN_MAX_CPU_ISA holds it below what the CPU has."""
    monkeypatch.setattr(hardware, "_onednn_takes_bf16", lambda: False)
    model = llama(tied=False)
    pack_weights(model)
    assert all(parameter.numel() for parameter in model.parameters())


def test_a_slower_cpu_keeps_the_plain_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "multiplies_bf16", lambda: False)
    model = llama(tied=False)
    pack_weights(model)
    assert all(parameter.numel() for parameter in model.parameters())


@needs_bf16
@pytest.mark.parametrize("pack", [True, False])
def test_loading_packs_where_it_is_not_told_otherwise(tmp_path: Any, pack: bool) -> None:
    llama(tied=False).save_pretrained(tmp_path)
    model = load_model(str(tmp_path), dtype="bfloat16", device="cpu", pack=pack)
    assert (model.lm_head.weight.numel() == 0) is pack
    model = load_model(str(tmp_path), dtype="float32", device="cpu", pack=pack)
    assert model.lm_head.weight.numel()
