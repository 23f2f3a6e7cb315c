"""Layers that keep less for the backward pass: the same losses and gradients, from fewer copies."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
lean = pytest.importorskip("eto_gym.trainers.model.lean")

WIDTH, INNER, VOCABULARY, TOKENS = 48, 128, 90, 70


def made(kind: str = "Llama", **options: Any) -> Any:
    """A model of two layers with random weights, norms included."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **options,
    )
    model = getattr(transformers, f"{kind}ForCausalLM")(config).train()
    for name, weight in model.named_parameters():
        if weight.ndim == 1:
            torch.nn.init.normal_(weight, mean=0.5 + 0.5 * ("norm" in name), std=0.2)
    return model


def loss_of(model: Any, *, bf16: bool = False) -> Any:
    ids = torch.arange(2 * TOKENS).view(2, TOKENS) * 7919 % VOCABULARY
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model(input_ids=ids, use_cache=False).logits
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten()
    )


def replaced(model: Any) -> set[str]:
    return {type(module).__name__ for module in model.modules() if "forward" in vars(module)}


@pytest.mark.parametrize("products", [False, True])
@pytest.mark.parametrize("kind", ["Llama", "Qwen2", "Qwen3"])
@pytest.mark.parametrize("bf16", [False, True])
def test_losses_and_gradients_are_the_same(kind: str, bf16: bool, products: bool) -> None:
    plain = made(kind)
    ours = copy.deepcopy(plain)
    assert lean.keep_less(ours, products=not products)
    assert lean.keep_less(ours, products=products)  # the last word counts
    assert replaced(ours) == {"Linear", f"{kind}MLP", f"{kind}RMSNorm"}
    expected, found = loss_of(plain, bf16=bf16), loss_of(ours, bf16=bf16)
    assert found.item() == expected.item()
    expected.backward()
    found.backward()
    for (name, own), (_, weight) in zip(
        ours.named_parameters(), plain.named_parameters(), strict=True
    ):
        # A norm's gradient that is rounded otherwise moves some numbers in bf16 to the next one.
        # (A bias of keys has no effect: its gradient is nothing but rounding.)
        error = (own.grad - weight.grad).norm() / weight.grad.norm().clamp(min=1e-3)
        assert error < (0.02 if bf16 else 1e-5), name
        assert own.grad.dtype == torch.float32


def kept(model: Any, *, bf16: bool) -> dict[int, Any]:
    """Return what the backward pass of a loss needs beside weights, by where it is."""
    weights = {weight.data_ptr() for weight in model.parameters()}
    found: dict[int, Any] = {}

    def note(tensor: Any) -> Any:
        if tensor.untyped_storage().data_ptr() not in weights:
            found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss_of(model, bf16=bf16)
    return found


@pytest.mark.parametrize("bf16", [False, True])
def test_less_is_kept(bf16: bool) -> None:
    plain, ours, least = made(), made(), made()
    lean.keep_less(ours)
    lean.keep_less(least, products=True)
    before, after = kept(plain, bf16=bf16), kept(ours, bf16=bf16)

    def size(tensors: Iterator[Any]) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors)

    def inner(tensors: dict[int, Any]) -> int:
        return sum(t.numel() == 2 * TOKENS * INNER for t in tensors.values())

    assert size(iter(after.values())) < 0.7 * size(iter(before.values()))
    assert inner(before) == 2 * 4
    assert inner(after) == 2 * 2  # of each layer, gate and up
    assert inner(kept(least, bf16=bf16)) == 0
    weights = {tuple(weight.shape) for weight in ours.parameters() if weight.ndim == 2}
    low = [t for t in after.values() if t.dtype == torch.bfloat16]
    assert not [t for t in low if tuple(t.shape) in weights or tuple(t.shape[::-1]) in weights]


def test_what_is_not_known_stays_as_it_is() -> None:
    gemma = made("Gemma")  # its norms add 1 to their weights, and its gate is no silu
    norms = [module for module in gemma.modules() if type(module).__name__ == "GemmaRMSNorm"]
    for norm in norms:
        norm.variance_epsilon = norm.eps
    expected = loss_of(gemma).item()
    assert not lean.keep_less(gemma)
    assert loss_of(gemma).item() == expected
    assert all(norm.forward == norm._plain for norm in norms)
    frozen = made().requires_grad_(False)
    assert not lean.keep_less(frozen)
    assert replaced(frozen) == {"Linear"}


def test_adapters_that_come_later_count() -> None:
    peft = pytest.importorskip("peft")
    model = made()
    lean.keep_less(model)
    config = peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    adapted = peft.get_peft_model(model, config)
    ours = loss_of(adapted)
    plain = peft.get_peft_model(made(), config)
    plain.load_state_dict(adapted.state_dict())
    assert ours.item() == pytest.approx(loss_of(plain).item(), rel=1e-6)
    ours.backward()
    assert all(weight.grad is not None for weight in adapted.parameters() if weight.requires_grad)
