"""Attention within token trees, for models of transformers, checked on the model itself."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from eto_gym.trainers.data.encoding import TokenRow
from eto_gym.trainers.data.trees import build_tree, score_tree
from eto_gym.trainers.model.scoring import without_dropout

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAMES = {"sdpa": "token_tree_sdpa", "eager": "token_tree_eager"}
"""Our attention function for each of transformers' that it calls segment by segment."""

LAYER_TYPES = frozenset({"full_attention", "sliding_attention"})
"""Layers that look at no token but through attention, with or without a window."""


BLOCK = 256
"""Queries that attend by one mask. Fewer leave out more of what the mask hides, and cost calls."""

_FUNCTIONS: Any = AttentionInterface()  # type: ignore[no-untyped-call]
_MASKS: Any = AttentionMaskInterface()  # type: ignore[no-untyped-call]


def _attend(
    inner: Callable[..., Any],
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    masked: bool,
    token_tree: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend segment by segment where a tree is given; else do what `inner` does."""
    if token_tree is None:
        result: tuple[torch.Tensor, None] = inner(
            module, query, key, value, attention_mask, **kwargs
        )
        return result
    window = kwargs.get("sliding_window")
    if window is not None:
        token_tree.windows.add(window)
    outputs = []
    # query (1, heads, T, width); key and value (1, kv heads, T, width). The S tokens of a segment
    # attend to D before it and to themselves: queries (S), keys (D + S) -> (1, S, heads, width).
    states = (token_tree.own(query), token_tree.reach(key), token_tree.reach(value))
    for segment, queries, keys, values in zip(token_tree.segments, *states, strict=True):
        reach = segment.depth + segment.stop - segment.start
        narrow = window if window is not None and window < reach else None
        # Without a mask, the kernels know a causal one, and skip half of the work.
        if not segment.depth and narrow is None and not masked:
            outputs.append(inner(module, queries, keys, values, None, **kwargs)[0])
            continue
        mask = token_tree.mask(segment, narrow, query)
        # With one they skip nothing: a block of queries is not given the keys that come after it.
        stop = segment.depth
        for block in torch.split(queries, BLOCK, dim=2):
            start, stop = stop, stop + block.shape[2]
            part = mask[:, :, start - segment.depth : stop - segment.depth, :stop]
            seen = (keys, values) if stop == reach else (keys[:, :, :stop], values[:, :, :stop])
            outputs.append(inner(module, block, *seen, part, **kwargs)[0])
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)), None


def _sdpa(module: Any, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
    return _attend(_FUNCTIONS["sdpa"], module, *args, masked=False, **kwargs)


def _eager(module: Any, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
    # Every family has its own, beside its layers.
    inner = sys.modules[type(module).__module__].eager_attention_forward
    return _attend(inner, module, *args, masked=True, **kwargs)


AttentionInterface.register(NAMES["sdpa"], _sdpa)
AttentionInterface.register(NAMES["eager"], _eager)
for _name, _ours in NAMES.items():
    AttentionMaskInterface.register(_ours, _MASKS[_name])


def install_trees(model: PreTrainedModel) -> str | None:
    """Let `model` take token trees, where its states do not depend on how rows are laid out.

    What the model does without a tree stays as it was. Full attention and sliding windows are
    supported, with PyTorch's fused attention ("sdpa") and with the plain one ("eager"). Layers that
    carry a state along the row (linear attention, convolutions, state spaces) are not; nor are
    positions that do not come from `position_ids`.

    Args:
        model: The model itself, with `install_scorer` done, not a wrapper of PEFT around it.

    Returns:
        Why the model cannot take trees, or None if it can: then it was compared with itself on a
        few rows, and one branch was seen not to depend on another.
    """
    config = model.config.get_text_config()
    before = config._attn_implementation
    if before in NAMES.values():
        return None
    if before not in NAMES:
        return f"its attention is {before!r}, not one of {', '.join(sorted(NAMES))}"
    other = set(getattr(config, "layer_types", None) or ()) - LAYER_TYPES
    if other:
        return f"it has layers of type {', '.join(sorted(other))}"
    model.set_attn_implementation(NAMES[before])
    try:
        obstacle = _check(model)
    except Exception as err:  # a foreign model may fail in any way on what it does not know
        obstacle = f"it failed on a small tree: {type(err).__name__}: {err}"
    if obstacle:
        model.set_attn_implementation(before)
    return obstacle


@contextlib.contextmanager
def plain_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let a model that takes trees have the attention of before for a while: it plays faster so.

    Args:
        model: The model itself, not a wrapper of PEFT around it.
    """
    ours = model.config.get_text_config()._attn_implementation
    before = next((name for name, own in NAMES.items() if own == ours), None)
    if before is None:
        yield
        return
    model.set_attn_implementation(before)
    try:
        yield
    finally:
        model.set_attn_implementation(ours)


def _check(model: Any) -> str | None:
    config = model.config.get_text_config()
    device = model.get_input_embeddings().weight.device

    def tokens(seed: int, count: int) -> list[int]:
        return [(seed * 7919 + index * 104729 + 11) % config.vocab_size for index in range(count)]

    trunk, twig = tokens(1, 9), tokens(2, 4)

    def rows(changed: int) -> list[TokenRow]:
        ends = [twig + tokens(3 + changed, 6), twig + tokens(5, 3), tokens(6, 7)]
        return [TokenRow(trunk + end, [True] * len(trunk + end)) for end in ends]

    def scores(rows: list[TokenRow]) -> tuple[torch.Tensor, dict[str, Any]]:
        batch = {
            name: value.to(device) if isinstance(value, torch.Tensor) else value
            for name, value in build_tree(rows).items()
        }
        return score_tree(model, batch).float(), batch

    with torch.no_grad(), without_dropout(model):
        ours, batch = scores(rows(0))
        moved, _ = scores(rows(20))
        alone = torch.stack([scores([row])[0][0] for row in rows(0)])
        plain = torch.stack([_plain_sum(model, row, device) for row in rows(0)])
    full = model.dtype in (torch.float32, torch.float64)
    # Sums over some 20 tokens; in bf16, rounding moves each by up to a hundredth.
    for expected in (alone, plain):
        if not torch.allclose(ours, expected, rtol=1e-5 if full else 0.01, atol=1e-3):
            return "its log-probabilities in a tree are not those of single rows"
    if not torch.allclose(ours[1:], moved[1:], rtol=0, atol=1e-3 if full else 0.1):
        return "one branch of a tree depends on another"
    window = _window(config)
    if window is not None and window not in batch["tree"].windows:
        return f"its attention does not say that its window is {window}"
    return None


def _plain_sum(model: Any, row: TokenRow, device: torch.device) -> torch.Tensor:
    ids = torch.tensor([row.ids], device=device)
    logps: torch.Tensor = model(input_ids=ids, score=ids)["token_logps"]
    return logps.sum().float()


def _window(config: Any) -> int | None:
    """Return the sliding window that some layer has, if any has one."""
    kinds = getattr(config, "layer_types", None)
    if not getattr(config, "use_sliding_window", True) or (
        kinds is not None and "sliding_attention" not in kinds
    ):
        return None
    window: int | None = getattr(config, "sliding_window", None)
    return window
