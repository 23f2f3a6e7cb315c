"""A decoding step that is compiled says what the plain one says."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from eto_gym.errors import EtoGymError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

# ruff: noqa: E402
from eto_gym.agents.models import compiled
from eto_gym.agents.models.compiled import COLUMNS, CompiledStep
from tests.agents.models.small_models import make_model, play, policy


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the compiler's front end alone work, and note the operations of each graph that it makes.

    The graphs are then run as they are: what is tested is all but torch's generated kernels.
    """
    graphs = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(compiled, "BACKEND", backend)
    return graphs


@pytest.mark.parametrize(
    ("kind", "options"),
    [("llama", {}), ("llama", {"batch_size": 2}), ("qwen3", {"temperature": 1.0}), ("gpt2", {})],
)
def test_the_same_is_said(kind: str, options: dict[str, Any], traced: list[int]) -> None:
    model = make_model(kind)
    plain = play(policy(model, **options), list(range(5)))
    assert traced == []
    found = play(policy(model, compile=True, **options), list(range(5)))
    assert found == plain
    assert len(traced) <= 2, "rows that end and columns that come are no new function"


def test_shapes_are_few(traced: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    step = CompiledStep.__call__

    def noted(self: Any, ids: Any, starts: Any, column: int) -> Any:
        logits = step(self, ids, starts, column)
        seen.append((len(ids), tuple(self._layers[0].keys.shape), logits.shape[0]))
        return logits

    monkeypatch.setattr(CompiledStep, "__call__", noted)
    play(policy(compile=True), list(range(7)))
    assert len({rows for rows, _, _ in seen}) > 3, "replies end at different steps"
    assert all(rows <= shape[0] < 2 * max(rows, 2) for rows, shape, _ in seen)
    assert {shape[0] for _, shape, _ in seen} <= {2, 4, 8}
    assert {shape[2] for _, shape, _ in seen} <= {COLUMNS, 2 * COLUMNS}
    assert all(rows == given for rows, _, given in seen)


def test_what_cannot_be_compiled_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("mistral-sliding", "llama-eager", "falcon-alibi"):
        with pytest.raises(EtoGymError, match="compile=true needs full attention by SDPA"):
            policy(make_model(kind), compile=True)

    def backend(graph: Any, _: Any) -> Any:
        raise RuntimeError("No C++ compiler\nfound, and a long trace")

    torch._dynamo.reset()
    monkeypatch.setattr(compiled, "BACKEND", backend)
    with pytest.raises(EtoGymError, match="LlamaForCausalLM cannot be compiled here") as refused:
        policy(compile=True)
    assert "No C++ compiler" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch's compiler needs a C++ compiler")
def test_generated_kernels_say_the_same() -> None:
    torch._dynamo.reset()
    assert play(policy(compile=True), list(range(5))) == play(policy(), list(range(5)))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs")
def test_cuda_graphs_say_the_same() -> None:
    model = make_model("llama").to("cuda")
    torch._dynamo.reset()
    assert play(policy(model, compile=True), list(range(5))) == play(policy(model), list(range(5)))
