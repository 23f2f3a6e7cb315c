from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

# ruff: noqa: E402

from eto_gym.agents.models.few_rows import for_few_rows
from eto_gym.agents.models.loading import load_model
from tests.agents.models.test_local import make_model


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3-hybrid"])
def test_weights_laid_out_for_few_rows_are_the_same_weights(kind: str) -> None:
    """Products are those of before but for rounding, and what is saved is what was loaded."""
    model = make_model(kind)
    ids = torch.arange(24).reshape(2, 12)
    with torch.inference_mode():
        expected = model(input_ids=ids).logits
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for_few_rows(model)
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    tied = model.get_input_embeddings().weight
    linear = [m.weight for m in model.modules() if type(m) is torch.nn.Linear]
    assert all(w.stride() == (1, w.shape[0]) for w in linear if w is not tied)
    assert tied.is_contiguous()
    with torch.inference_mode():
        torch.testing.assert_close(model(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux tells what is mapped")
def test_no_file_stays_mapped_beside_weights_that_were_laid_out(
    tmp_path: Path,
) -> None:
    make_model("llama").save_pretrained(tmp_path)
    model = load_model(str(tmp_path), dtype="float32", device="cpu")
    assert str(tmp_path) in Path("/proc/self/maps").read_text("utf-8")
    for_few_rows(model)
    assert str(tmp_path) not in Path("/proc/self/maps").read_text("utf-8")


def test_weights_of_another_precision_keep_their_layout() -> None:
    model = make_model("llama").to(torch.bfloat16)
    held = [p.data_ptr() for p in model.parameters()]
    for_few_rows(model)
    assert [p.data_ptr() for p in model.parameters()] == held
