"""Key-value buffers that are written in place, behind the cache interface of transformers.

Two kinds hold keys and values. Each conversation owns a `KVRow`, which lasts from turn to turn.
While a batch is computed, its rows lie side by side in a `KVBatch`, aligned at their right ends:
a decoding step then writes one column for all rows, the query offset is the same in every row, and
the masks that a stock model builds (padding, sliding windows) are right, since all they use are
distances.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DynamicLayer,
    DynamicSlidingWindowLayer,
)

from eto_gym.errors import EtoGymError

_PLAIN = (DynamicLayer, DynamicSlidingWindowLayer)
_GROWTH = 128  # columns that a row grows by: large enough that growing is rare


class KVRow:
    """The keys and values of one conversation, per layer as (heads, columns, width).

    Attributes:
        ids: Token ids whose keys and values are held, in order.
    """

    __slots__ = ("_borrowed", "_tensors", "ids")

    def __init__(self) -> None:
        self.ids: list[int] = []
        self._tensors: list[torch.Tensor] = []
        self._borrowed = False

    @property
    def columns(self) -> int:
        """Tokens for which memory is held."""
        return int(self._tensors[0].shape[1]) if self._tensors else 0

    def head(self, length: int) -> KVRow:
        """Return a row of the first `length` tokens, which borrows memory until it is stored to."""
        other = KVRow()
        other.ids = self.ids[:length]
        other._tensors = [t[:, :length] for t in self._tensors]
        other._borrowed = True
        return other

    def copy(self, length: int) -> KVRow:
        """Return a row of the first `length` tokens in memory of its own."""
        other = KVRow()
        other.ids = self.ids[:length]
        for held in self._tensors:
            new = held.new_empty((held.shape[0], _columns(length), held.shape[2]))
            new[:, :length] = held[:, :length]
            other._tensors.append(new)
        return other

    def load(self, batch: KVBatch, row: int, start: int, length: int) -> None:
        """Copy the first `length` tokens into a row of the batch, the first one to `start`."""
        if length:
            for held, to in zip(self._tensors, batch.tensors, strict=True):
                # (B, heads, columns, width)[row] <- (heads, columns, width)
                to[row, :, start : start + length] = held[:, :length]

    def store(self, batch: KVBatch, row: int, start: int, ids: list[int], kept: int) -> None:
        """Become `ids`, whose first column in the batch is `start`.

        Args:
            batch: Where the keys and values are.
            row: The row there.
            start: The column of the first token.
            ids: All tokens to hold from now on.
            kept: How many of them this row holds already; these are not copied.
        """
        total = len(ids)
        if self._borrowed or self.columns < total:
            self._grow(batch, total, kept)
        for held, new in zip(self._tensors, batch.tensors, strict=True):
            held[:, kept:total] = new[row, :, start + kept : start + total]
        self.ids = ids

    def forget(self) -> None:
        """Hold nothing any more."""
        self.ids, self._tensors, self._borrowed = [], [], False

    def _grow(self, batch: KVBatch, total: int, kept: int) -> None:
        columns = _columns(total)
        grown = [t.new_empty((t.shape[1], columns, t.shape[3])) for t in batch.tensors]
        if kept:
            for new, old in zip(grown, self._tensors, strict=True):
                new[:, :kept] = old[:, :kept]
        self._tensors = grown
        self._borrowed = False


def _columns(tokens: int) -> int:
    """Return the columns of a row that is to hold so many tokens, and may grow."""
    return (tokens // _GROWTH + 2) * _GROWTH


class _Layer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer of a `KVBatch`, as transformers wants it."""

    is_sliding = False

    def __init__(self, batch: KVBatch, keys: int, values: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._batch, self._keys, self._values = batch, keys, values
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing to do: `KVBatch.lay_out` has done it."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new columns of the rows in use; return all of their columns."""
        batch = self._batch
        keys, values = batch.tensors[self._keys], batch.tensors[self._values]
        rows, start, end = batch.rows, batch.column, batch.column + key_states.shape[2]
        if batch.places is None:
            keys[rows, :, start:end] = key_states
            values[rows, :, start:end] = value_states
        else:
            # (B, 1) rows and (B, Q) columns name (B, Q, heads, width).
            each, columns = batch.places
            keys[each, :, columns] = key_states.transpose(1, 2)
            values[each, :, columns] = value_states.transpose(1, 2)
        return keys[rows, :, batch.left : end], values[rows, :, batch.left : end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the length and the offset of the keys that `update` will return."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """Return the number of columns before the query."""
        return self._batch.column - self._batch.left

    def get_max_length(self) -> int:
        """Return -1: there is no limit."""
        return -1


class KVBatch(Cache):
    """The keys and values of the rows that are computed together.

    Set `rows`, `left`, `column` and `places` before each forward pass. Memory is kept from batch to
    batch, and is always finite: a masked column must not hold a NaN.

    Attributes:
        tensors: Keys and values of every layer, as (rows, heads, columns, width).
        rows: The rows that the next forward pass computes.
        left: First column that it attends to.
        column: Column of its first query.
        places: Where rows differ in the columns of their queries, the rows (B, 1) and these columns
            (B, Q), of which no row's first one is beyond `column`. None: they do not differ.
        kept_dtype: Type of keys and values. It is not named `dtype`: where a model is trained in 16
            bits accelerate takes what has one for a tensor, and turns it into float32.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        """Learn the shapes by one forward pass over one token.

        Raises:
            EtoGymError: The model keeps something else than keys and values from token to token.
        """
        with torch.inference_mode():
            device = next(model.parameters()).device
            probe = model(
                input_ids=torch.zeros((1, 1), dtype=torch.long, device=device), use_cache=True
            )
        tensors = [t for pair in _keys_and_values(model, probe) for t in pair]
        self.shapes = [(int(t.shape[1]), int(t.shape[3])) for t in tensors]
        self._arenas = [t.new_zeros(0) for t in tensors]
        self.kept_dtype = tensors[0].dtype
        self.tensors: list[torch.Tensor] = []
        self.rows = slice(0, 0)
        self.left = 0
        self.column = 0
        self.places: tuple[torch.Tensor, torch.Tensor] | None = None
        super().__init__(layers=[_Layer(self, 2 * i, 2 * i + 1) for i in range(len(tensors) // 2)])

    @property
    def bytes_per_token(self) -> int:
        """Bytes of a token's keys and values in all layers."""
        return sum(heads * width for heads, width in self.shapes) * self.kept_dtype.itemsize

    def lay_out(self, rows: int, columns: int) -> None:
        """Make room for so many rows and columns; what was held is lost."""
        self.tensors = []
        for i, (heads, width) in enumerate(self.shapes):
            size = rows * heads * columns * width
            if self._arenas[i].numel() < size:
                self._arenas[i] = self._arenas[i].new_zeros(size + size // 4)
            self.tensors.append(self._arenas[i][:size].view(rows, heads, columns, width))

    def clear(self, row: int) -> None:
        """Write zeros over a row, lest what is no number there spoil those that come after it."""
        for tensor in self.tensors:
            tensor[row] = 0

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        """Copy a row over another one, from column `start` to before `end`."""
        for tensor in self.tensors:
            tensor[target, :, start:end] = tensor[source, :, start:end]


def cache_argument(model: Any) -> str:
    """Return the name of the argument in which a model takes its cache.

    It is "cache" from transformers 5.24 on, which takes the name before, "past_key_values", until
    5.40; a model with code of its own may keep that for longer. PEFT's wrapper hands on what it is
    given.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    # Of the class: an instance's own `forward` may be one that takes anything.
    named = inspect.signature(type(inner).forward).parameters
    return "cache" if "cache" in named else "past_key_values"


def _keys_and_values(
    model: torch.nn.Module, output: Any
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return what each layer keeps, as (rows, heads, columns, width).

    Keys and values of any tokens can be kept, put elsewhere and dropped. The states of other layers
    (Mamba, linear attention, convolutions) stand for all that was read, and cannot.
    """
    cache = getattr(output, "cache", None) or getattr(output, "past_key_values", None)
    layers = getattr(cache, "layers", None)
    if not layers:
        kept = "no layers of keys and values"
    elif odd := {type(x).__name__ for x in layers} - {x.__name__ for x in _PLAIN}:
        kept = ", ".join(sorted(odd))
    elif any(t is None or t.ndim != 4 for x in layers for t in (x.keys, x.values)):
        kept = "layers without keys and values"
    else:
        return [(x.keys, x.values) for x in layers]
    raise EtoGymError(
        f"{type(model).__name__} does not keep keys and values in every layer, which a local "
        f"policy needs (it keeps: {kept}). Put the model behind a server instead, with `eto-gym "
        "serve MODEL`, and let an endpoint policy ask it."
    )
