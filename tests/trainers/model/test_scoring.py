"""Log-probabilities in blocks of rows: those of cross entropy, with its gradients."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
scoring = pytest.importorskip("eto_gym.trainers.model.scoring")

ROWS, VOCABULARY = 11, 50


@pytest.mark.parametrize("block", [1, 4 * VOCABULARY * 3, 1 << 20])  # 1 row, 3 rows, all
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_log_probabilities_and_gradients_are_those_of_cross_entropy(
    monkeypatch: pytest.MonkeyPatch, dtype: Any, block: int
) -> None:
    monkeypatch.setitem(scoring.BLOCK_BYTES, "cpu", block)
    torch.manual_seed(0)
    start = (8 * torch.randn(ROWS, VOCABULARY)).to(dtype)
    targets = torch.arange(ROWS) * 7 % VOCABULARY
    grads = torch.randn(ROWS).to(scoring._wide(dtype))
    ours, plain = (start.clone().requires_grad_() for _ in range(2))
    found = scoring._LogProbabilities.apply(ours, targets)
    wide = plain.to(scoring._wide(dtype))
    expected = -torch.nn.functional.cross_entropy(wide, targets, reduction="none")
    assert found.dtype == scoring._wide(dtype)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    found.backward(grads)
    expected.backward(grads)
    assert ours.grad.dtype == dtype
    assert torch.equal(ours, start)  # what is kept is not worked in
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(ours.grad, plain.grad, rtol=tolerance, atol=1e-6)


def test_only_the_logits_themselves_are_kept_of_their_size() -> None:
    kept: list[Any] = []

    def note(tensor: Any) -> Any:
        kept.append(tensor)
        return tensor

    logits = torch.randn(ROWS, VOCABULARY, dtype=torch.bfloat16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        scoring._LogProbabilities.apply(logits, torch.arange(ROWS))
    large = [tensor for tensor in kept if tensor.numel() == ROWS * VOCABULARY]
    assert [tensor.dtype for tensor in large] == [torch.bfloat16]
    assert large[0].data_ptr() == logits.data_ptr()


def _opt() -> Any:
    """Return a model whose dropout, and skipping of layers, are numbers of its modules."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "ffn_dim": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.OPTConfig(
        vocab_size=VOCABULARY, word_embed_proj_dim=16, dropout=0.5, layerdrop=0.5, **sizes
    )
    return transformers.OPTForCausalLM(config).train()


def _llama() -> Any:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, num_attention_heads=2, attention_dropout=0.5, **sizes
    )
    return transformers.LlamaForCausalLM(config).train()


def _gpt2() -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=2)
    return transformers.GPT2LMHeadModel(config).train()


@pytest.mark.parametrize("make", [_opt, _llama, _gpt2])
def test_all_dropout_is_taken_out_however_a_family_keeps_it(make: Any) -> None:
    model = make()
    ids = torch.arange(ROWS)[None]
    assert not torch.equal(model(ids).logits, model(ids).logits)
    scoring.remove_dropout(model)
    assert model.training
    found = model(ids).logits
    assert torch.equal(found, model(ids).logits)
    torch.testing.assert_close(found, model.eval()(ids).logits)
    rates = {name: value for name, value in model.config.to_dict().items() if "drop" in name}
    assert any(rates.values()), "the configuration is saved as it was"
