"""The decoding step of a local model through `torch.compile`, on shapes that rarely change.

A step decodes one token of each row of a batch. Without compiling, its shapes follow the batch
exactly: a column more at every step, and fewer rows as replies end. Compiled, both are rounded up:
rows to a power of two, columns to a multiple of `COLUMNS`, and what lies beyond is masked. So a few
shapes occur in a whole rollout, and all columns are attended to, where the plain step leaves out
those before the longest prompt.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from transformers.cache_utils import Cache, CacheLayerMixin

from eto_gym.agents.models.kv import KVBatch, cache_argument
from eto_gym.agents.models.model_names import one_line
from eto_gym.errors import EtoGymError

COLUMNS = 256
"""Columns are rounded up to a multiple of this: a conversation of 2,048 tokens meets 8 shapes."""

BACKEND = "inductor"
"""torch's own compiler. It needs a C++ compiler on a CPU, and Triton on a GPU."""

COMPILED = 64
"""Times that the step may be compiled; at torch's own limit of 8 it would fail."""


class _Layer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """The keys and values of one layer, whole tensors of which a step writes one column.

    Attributes:
        keys, values: (rows, heads, columns, width), views of the tensors of a `KVBatch`.
        column: The column that is written, as a tensor (1,): a number would be compiled in.
    """

    is_sliding = False
    keys: torch.Tensor
    values: torch.Tensor
    column: torch.Tensor

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing to do: `CompiledStep` sets the tensors."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the column of all rows; return all columns."""
        self.keys.index_copy_(2, self.column, key_states)
        self.values.index_copy_(2, self.column, value_states)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the length and the offset of the keys that `update` will return."""
        return self.keys.shape[2], 0

    def get_seq_length(self) -> int:
        """Return 0: positions and mask are given at every step."""
        return 0

    def get_max_length(self) -> int:
        """Return -1: there is no limit."""
        return -1


class CompiledStep:
    """Decodes one token of each row of a `KVBatch` by a compiled function."""

    def __init__(self, model: Any, batch: KVBatch) -> None:
        """Compile, on a step of two rows.

        One function is compiled for all shapes. On a GPU it is recorded as a CUDA graph for each
        (`mode="reduce-overhead"`).

        Args:
            model: A causal language model of transformers with full attention under SDPA.
            batch: Where the keys and values are.

        Raises:
            EtoGymError: The step cannot be compiled: there is no compiler, or the model does
                something on the way that a compiler cannot follow.
        """
        self._batch = batch
        self._layers = [_Layer() for _ in range(len(batch.shapes) // 2)]
        self._cache = {cache_argument(model): Cache(layers=list(self._layers))}
        self._model = model
        self._device = next(model.parameters()).device
        self._graphs = self._device.type == "cuda"
        self._views: dict[tuple[int, ...], list[torch.Tensor]] = {}
        self._held: list[int] = []  # addresses of what the views are of
        self._step = torch.compile(
            self._plain,
            backend=BACKEND,
            fullgraph=True,  # an error where a part would go on without being compiled
            dynamic=True,
            mode="reduce-overhead" if self._graphs else None,
        )
        try:
            batch.lay_out(*self.room(2, 1))
            starts = torch.zeros(2, dtype=torch.long, device=self._device)
            with torch.inference_mode():
                self(starts, starts, 0)
        except Exception as err:  # whatever compilers raise
            raise EtoGymError(
                f"compile=true: the decoding step of {type(model).__name__} cannot be compiled "
                f"here: {one_line(err)}. Leave compile out"
            ) from err

    @staticmethod
    def room(rows: int, columns: int) -> tuple[int, int]:
        """Return the rows and columns of the tensors in which so many are decoded."""
        return 1 << max(1, (rows - 1).bit_length()), -(-columns // COLUMNS) * COLUMNS

    def __call__(self, ids: torch.Tensor, starts: torch.Tensor, column: int) -> torch.Tensor:
        """Read one token of each row, and return the logits after it.

        Args:
            ids: The tokens, (B,).
            starts: The first column of each row, (B,).
            column: The column that they are written to.

        Returns:
            (B, vocabulary). The next step may overwrite it.
        """
        rows = len(ids)
        more, _ = self.room(rows, 1)
        self._show(more)
        place = torch.full((1,), column, device=self._device)
        for layer in self._layers:
            layer.column = place
        # Rows that are not used read what is there, which is finite, and write where none looks.
        padded = [functional.pad(values, (0, more - rows)) for values in (ids, starts)]
        with torch._dynamo.config.patch(recompile_limit=COMPILED):
            logits: torch.Tensor = self._step(*padded)
        return logits[:rows]

    def _plain(self, ids: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        first = self._layers[0]
        column = first.column
        columns = torch.arange(first.keys.shape[2], device=ids.device)
        mask = (columns >= starts[:, None]) & (columns <= column)  # (B, columns)
        output = self._model(
            input_ids=ids[:, None],
            position_ids=(column - starts)[:, None],
            attention_mask=mask[:, None, None],
            use_cache=True,
            logits_to_keep=1,
            **self._cache,
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _show(self, rows: int) -> None:
        """Let the layers see the first rows of the batch's tensors."""
        tensors = self._batch.tensors
        held = [tensor.data_ptr() for tensor in tensors]
        if held != self._held:
            self._views, self._held = {}, held
        key = (rows, *tensors[0].shape)
        if key not in self._views:
            self._views[key] = [tensor[:rows] for tensor in tensors]
            if self._graphs:  # without the mark, what is written in place is no part of a graph
                for view in self._views[key]:
                    torch._dynamo.mark_static_address(view)
        views = self._views[key]
        for i, layer in enumerate(self._layers):
            layer.keys, layer.values = views[2 * i], views[2 * i + 1]
