"""Token trees give every token the state that it has in a row of its own."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from eto_gym.trainers.data.batching import IGNORED, pad_rows  # noqa: E402
from eto_gym.trainers.data.encoding import TokenRow  # noqa: E402
from eto_gym.trainers.data.trees import build_tree, score_tree  # noqa: E402
from eto_gym.trainers.model import tree_attention  # noqa: E402
from eto_gym.trainers.model.scoring import install_scorer, row_sums  # noqa: E402
from eto_gym.trainers.model.tree_attention import install_trees  # noqa: E402

SHAPE: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WINDOW = {"sliding_window": 5}
MIXED = {**WINDOW, "layer_types": ["sliding_attention", "full_attention"]}


def _model(family: str, attention: str = "sdpa", **options: Any) -> Any:
    import transformers

    config = transformers.AutoConfig.for_model(family, **{**SHAPE, **options})
    auto: Any = transformers.AutoModelForCausalLM
    model: Any = auto.from_config(config, attn_implementation=attention, dtype=torch.float32)
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            parameter.data.normal_(0, 0.15, generator=generator)
    install_scorer(model)
    return model.eval()


def _rows() -> list[TokenRow]:
    """Three pairs: with a long prompt, with a turn in common, and with an instruction of all."""
    every = [(37 * n) % 290 + 3 for n in range(60)]
    prompts = [every[:11] + every[20:31], every[:11] + every[31:36], every[:11]]
    chosen = [p + every[40 + n : 52] for n, p in enumerate(prompts)]
    rejected = [p + every[40 + n : 44] + every[52:] for n, p in enumerate(prompts)]
    return [
        TokenRow(ids, [i >= len(p) - 2 and i % 3 != 0 for i in range(len(ids))])
        for side in (chosen, rejected)
        for p, ids in zip(prompts, side, strict=True)
    ]


def _padded(model: Any, rows: list[TokenRow]) -> Any:
    batch = pad_rows(rows, 0)
    logps = model(input_ids=batch["input_ids"], score=batch["labels"])["token_logps"]
    return row_sums(logps, batch["labels"])


@pytest.mark.parametrize(
    ("family", "attention", "options"),
    [
        ("llama", "sdpa", {}),
        ("llama", "eager", {}),
        ("qwen2", "sdpa", {}),
        ("qwen2", "sdpa", {"use_sliding_window": True, "max_window_layers": 1, **WINDOW}),
        ("qwen3", "sdpa", {}),
        ("qwen3", "eager", {}),
        ("mistral", "sdpa", WINDOW),
        ("gemma", "sdpa", {}),
        ("gemma2", "eager", {"query_pre_attn_scalar": 16, **MIXED}),
        ("gemma3_text", "sdpa", {"query_pre_attn_scalar": 16, **MIXED}),
        ("phi3", "sdpa", {}),
    ],
)
@pytest.mark.parametrize("block", [tree_attention.BLOCK, 3])
def test_scores_and_gradients_equal_those_of_padded_rows(
    family: str,
    attention: str,
    options: dict[str, Any],
    block: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tree_attention, "BLOCK", block)
    rows = _rows()
    tree = build_tree(rows)
    assert tree["input_ids"].shape[1] < 0.6 * sum(len(row.ids) for row in rows)
    model = _model(family, attention, **options)
    weight = torch.linspace(-1, 1, len(rows))
    padded = _padded(model, rows)
    (padded * weight).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()

    assert install_trees(model) is None
    shared = score_tree(model, tree)
    assert shared.tolist() == pytest.approx(padded.tolist(), rel=1e-5)
    (shared * weight).sum().backward()
    for name, parameter in model.named_parameters():
        scale = gradients[name].abs().max().item()
        assert torch.allclose(parameter.grad, gradients[name], rtol=1e-4, atol=1e-5 * scale), name
    # Without a tree, the model is what it was.
    assert torch.equal(_padded(model, rows), padded)


@pytest.mark.parametrize(
    ("family", "attention", "options", "reason"),
    [
        ("lfm2", "sdpa", {"layer_types": ["conv", "full_attention"]}, "layers of type conv"),
        ("mamba", "eager", {}, "layers of type linear_attention"),
        ("stablelm", "sdpa", {}, "not those of single rows"),
    ],
)
def test_families_that_cannot_share_are_found(
    family: str, attention: str, options: dict[str, Any], reason: str
) -> None:
    model = _model(family, attention, **options)
    before = _padded(model, _rows())
    assert reason in str(install_trees(model))
    assert model.config._attn_implementation == attention
    assert torch.equal(_padded(model, _rows()), before)


def test_other_attention_functions_are_left_alone() -> None:
    model = _model("llama")
    model.set_attn_implementation("flex_attention")
    assert "flex_attention" in str(install_trees(model))
    assert model.config._attn_implementation == "flex_attention"


def test_a_window_that_the_attention_does_not_state_is_found() -> None:
    """The window is longer than the rows of the check, which therefore cannot feel it."""
    model = _model("llama")
    model.config.sliding_window = 4096
    assert "does not say that its window is 4096" in str(install_trees(model))


def test_a_state_that_runs_along_the_row_is_found() -> None:
    """The check has teeth: a layer that mixes neighbours is noticed, whatever its type says."""
    model = _model("llama")
    embed = model.get_input_embeddings()
    embed.register_forward_hook(lambda _, __, out: out + 0.3 * out.cumsum(dim=1))
    assert install_trees(model) is not None


def test_gradient_checkpointing_sees_the_tree_again() -> None:
    rows, model = _rows(), _model("qwen3")
    assert install_trees(model) is None
    results = []
    for saving in (False, True):
        if saving:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train().zero_grad()
        sums: Any = score_tree(model, build_tree(rows))
        sums.sum().backward()
        results.append((sums.tolist(), model.get_input_embeddings().weight.grad.clone()))
    assert results[0][0] == results[1][0]
    assert torch.allclose(results[0][1], results[1][1], rtol=1e-4, atol=1e-5)


def test_the_written_model_is_an_ordinary_one(tmp_path: Any) -> None:
    from transformers import AutoModelForCausalLM

    model = _model("llama")
    assert install_trees(model) is None
    model.save_pretrained(tmp_path)
    assert "token_tree" not in (tmp_path / "config.json").read_text()
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits, model(input_ids=ids).logits)
        answer = model.generate(input_ids=ids, max_new_tokens=5, do_sample=False)
        assert torch.equal(
            answer, loaded.generate(input_ids=ids, max_new_tokens=5, do_sample=False)
        )


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_row_is_a_path_of_its_tree(data: st.DataObject) -> None:
    # Few different tokens, so that rows begin alike, are prefixes of others, or are equal.
    ids = data.draw(st.lists(st.lists(st.integers(3, 5), min_size=1, max_size=12), min_size=1))
    masks = [data.draw(st.lists(st.booleans(), min_size=len(i), max_size=len(i))) for i in ids]
    rows = [TokenRow(*row) for row in zip(ids, masks, strict=True)]
    tree = build_tree(rows)
    flat, positions = tree["input_ids"][0].tolist(), tree["position_ids"][0].tolist()
    paths = {}
    for segment in tree["tree"].segments:
        path = [i for span in (*segment.spans, (segment.start, segment.stop)) for i in range(*span)]
        assert [positions[i] for i in path] == list(range(len(path)))
        assert segment.depth == sum(stop - start for start, stop in segment.spans)
        for end in range(1, len(path) + 1):
            paths[tuple(flat[i] for i in path[:end])] = path[:end]
    # Each beginning is there once.
    assert len(flat) == len({tuple(i[:end]) for i in ids for end in range(1, len(i) + 1)})
    labels = pad_rows(rows, 0)["labels"]
    assert tree["trained"].tolist() == labels.ne(IGNORED).sum(dim=1).tolist()
    assert tree["tokens"] == sum(len(i) for i in ids)
    found: list[list[tuple[int, int]]] = [[] for _ in rows]
    for entry, side in zip(tree["entries"].tolist(), tree["sides"].tolist(), strict=True):
        found[side].append((int(tree["states"][entry]), int(tree["targets"][entry])))
    for row, marks in zip(rows, found, strict=True):
        path = paths[tuple(row.ids)]
        expected = [(path[t - 1], row.ids[t]) for t in range(1, len(path)) if row.mask[t]]
        assert sorted(marks) == sorted(expected)
