"""Log-probabilities of trained tokens only: the output layer never sees any other position.

A prompt and its observations are most of a conversation. Projecting them onto the vocabulary costs
as much as the rest of a small model, and holds the largest tensor of the step.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.checkpoint import checkpoint

from eto_gym.errors import EtoGymError
from eto_gym.trainers.data.batching import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHUNK_BYTES = 64 << 20
"""Largest tensor of logits that is held at once, in bytes; more rows are computed chunk by chunk,
and computed again in the backward pass."""

BLOCK_BYTES = {"cpu": 4 << 20}
"""Largest part of them that is worked on in float32: little enough for the cache of a core, and
elsewhere `BLOCK_BYTES_ELSEWHERE`, enough to keep a device busy."""

BLOCK_BYTES_ELSEWHERE = 32 << 20

Score = torch.Tensor | tuple[torch.Tensor, ...]
"""Labels as transformers has them; or places of states and the tokens that they predict, and for a
value head the places of the states that it reads."""

VALUE_HEAD = "value_head"
"""Name of the module of a model that predicts values, where it has one."""

_MARK = "_scores_tokens"


def install_scorer(model: PreTrainedModel) -> None:
    """Let `model(..., score=labels)` return the log-probabilities of the labelled tokens alone.

    With `score` the call returns `{"token_logps": ...}`, a vector with one entry per label other
    than -100, row by row, in float32 (float64 of a model in doubles). `score` may also be two
    vectors: places of states in a batch of one row, and the token that each predicts. With
    `entropies` too, "token_entropies" has the entropy, in nats, of the distribution that each of
    these tokens was chosen from, without a gradient. A model with a value head returns "values":
    what the head makes of the last hidden states and the labels. Without `score` the model does
    what it did before. The call goes through the model's own forward, so that wrappers for many
    devices and adapters still see it.

    Args:
        model: The model itself, not a wrapper of PEFT around it.

    Raises:
        EtoGymError: The model's logits are more than its output layer applied to its last hidden
            state, in a way that is not known here; found by comparing both on a few tokens.
    """
    if getattr(model, _MARK, False):
        return
    original = model.forward

    def forward(
        self: Any, *args: Any, score: Score | None = None, entropies: bool = False, **kwargs: Any
    ) -> Any:
        if score is None:
            return original(*args, **kwargs)
        kwargs["use_cache"] = False
        hidden = self.base_model(*args, **kwargs).last_hidden_state
        scores = _score(self, hidden, score, entropies)
        if (head := getattr(self, VALUE_HEAD, None)) is not None:
            scores["values"] = head(hidden, score)
        return scores

    model.forward = types.MethodType(forward, model)
    setattr(model, _MARK, True)
    _verify(model)


@contextlib.contextmanager
def without_dropout(model: Any) -> Iterator[None]:
    """Put a model into evaluation mode for a while, except its four-bit layers.

    On a CPU, bitsandbytes repacks a four-bit layer in place at its first call in evaluation mode,
    with rounded scales and for inference only: training could not go on with it. So these layers
    stay in training mode, whatever mode their model is put into meanwhile. May be nested.
    """
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    four_bit = [
        module
        for module, _ in before
        if type(module).__name__ == "Linear4bit" and "train" not in vars(module)
    ]
    for module in four_bit:
        module.training = True
        module.train = types.MethodType(lambda self, mode=True: self, module)
    try:
        yield
    finally:
        for module in four_bit:
            del module.train
        for module, training in before:
            module.training = training


def remove_dropout(model: Any) -> None:
    """Take all dropout out of a loaded model, adapters included; its configuration is left.

    Besides layers for it, families keep rates as numbers of their modules, which they hand to
    attention or to `torch.nn.functional.dropout` (OPT's `dropout` and `layerdrop`, Llama's
    `attention_dropout`).
    """
    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def row_sums(token_logps: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum the vector of `score=labels` over each row of `labels`: (N,) and (B, T) -> (B,)."""
    rows = torch.nonzero(labels[:, 1:] != IGNORED)[:, 0]
    return token_logps.new_zeros(labels.shape[0]).index_add(0, rows, token_logps)


def _score(
    model: Any, hidden: torch.Tensor, score: Score, entropies: bool
) -> dict[str, torch.Tensor]:
    head = model.get_output_embeddings()
    # hidden (B, T, width); N labelled tokens: states (N, width), targets (N,).
    if isinstance(score, torch.Tensor):
        # The token at t is predicted from the state at t - 1: labels (B, T - 1).
        labels = score[:, 1:].to(hidden.device)
        keep = labels != IGNORED
        states, targets = hidden[:, :-1][keep], labels[keep]
    else:
        places, targets = (part.to(hidden.device) for part in score[:2])
        states = hidden[0].index_select(0, places)

    def scores(states: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits = _scaled(head(states), model.config.get_text_config())  # (n, vocabulary)
        logps: torch.Tensor = _LogProbabilities.apply(logits, targets)  # type: ignore[no-untyped-call]
        return (logps, _entropies(logits.detach())) if entropies else (logps,)

    device = states.device.type
    lowers = torch.is_autocast_enabled(device)
    size = (torch.get_autocast_dtype(device) if lowers else states.dtype).itemsize
    rows = max(1, CHUNK_BYTES // (size * model.config.get_text_config().vocab_size))
    if len(targets) <= rows:
        found = scores(states, targets)
    else:
        goals = torch.split(targets, rows)
        parts = [
            checkpoint(scores, part, goal, use_reentrant=False)
            for part, goal in zip(torch.split(states, rows), goals, strict=True)
        ]
        found = tuple(torch.cat(column) for column in zip(*parts, strict=True))
    return dict(zip(("token_logps", "token_entropies"), found, strict=False))


class _LogProbabilities(torch.autograd.Function):
    """Log-probabilities of targets, (n, vocabulary) and (n,) -> (n,), in float32 or wider.

    Logits are kept in the precision that they have, and widened a few rows at a time, in both
    passes: cross entropy would keep a second tensor of their size, and make two more.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logps = logits.new_empty(len(targets), dtype=_wide(logits.dtype))
        for part, goal, result in _blocks(logits, targets, logps):
            found = part.to(logps.dtype).log_softmax(-1)
            result.copy_(found.gather(-1, goal[:, None])[:, 0])
        ctx.save_for_backward(logits, targets, logps)
        return logps

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits, targets, logps = ctx.saved_tensors
        inner = torch.empty_like(logits)
        for part, goal, logp, grad, result in _blocks(logits, targets, logps, grads[0], inner):
            wide, goal = part.to(logps.dtype), goal[:, None]
            total = wide.gather(-1, goal) - logp[:, None]  # logarithm of the sum of all
            wide = torch.sub(wide, total, out=wide if wide is not part else None).exp_()
            wide.mul_(-grad[:, None]).scatter_add_(-1, goal, grad[:, None])
            result.copy_(wide)
        return inner, None


def _blocks(logits: torch.Tensor, *others: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield all tensors in blocks of a few rows."""
    size = BLOCK_BYTES.get(logits.device.type, BLOCK_BYTES_ELSEWHERE)
    rows = max(1, size // (_wide(logits.dtype).itemsize * logits.shape[-1]))
    return zip(*(torch.split(tensor, rows) for tensor in (logits, *others)), strict=True)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _entropies(logits: torch.Tensor) -> torch.Tensor:
    """Return the entropy of each row of logits in nats: (n, vocabulary) -> (n,)."""
    parts = []
    for (part,) in _blocks(logits):
        logps = part.to(_wide(part.dtype)).log_softmax(-1)
        parts.append(-(logps.exp() * logps).sum(-1))
    return torch.cat(parts)


def _scaled(logits: torch.Tensor, config: Any) -> torch.Tensor:
    """Apply what some families do to their logits after the output layer, in float32."""
    names = ("logits_scaling", "logit_scale", "final_logit_softcapping")  # Granite, Cohere, Gemma
    scaling, scale, cap = (getattr(config, name, None) for name in names)
    if not (scaling or scale or cap):
        return logits
    logits = logits.to(_wide(logits.dtype))
    if scaling:
        logits = logits / scaling
    if scale:
        logits = logits * scale
    if cap:
        logits = torch.tanh(logits / cap) * cap
    return logits


def _verify(model: Any) -> None:
    size = model.config.get_text_config().vocab_size
    device = model.get_input_embeddings().weight.device
    ids = (torch.arange(7, device=device) * 7919 + 11)[None] % size
    labels = ids.clone()
    labels[:, 0] = IGNORED
    with torch.no_grad(), without_dropout(model):
        ours = model(input_ids=ids, score=labels)["token_logps"].float()
        # Where the Trainer has wrapped the call in a lower precision, scores are compared without.
        plain = vars(model).get("_original_forward", model)
        logits = plain(input_ids=ids).logits.float()
    theirs = logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
    tolerance = 1e-4 if model.dtype in (torch.float32, torch.float64) else 0.05
    if not torch.allclose(ours, theirs.to(ours.device), rtol=1e-3, atol=tolerance):
        raise EtoGymError(
            f"{type(model).__name__} does more to its logits than applying its output layer, so "
            "the log-probabilities of single tokens would be wrong; this family is not supported"
        )
