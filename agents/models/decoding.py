"""Batched decoding of many conversations at once, over key-value rows that outlive a turn."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.integrations import sdpa_attention

from eto_gym.agents.models.compiled import CompiledStep
from eto_gym.agents.models.kv import KVBatch, KVRow, cache_argument
from eto_gym.agents.models.loading import FORCE_GQA
from eto_gym.errors import EtoGymError


@dataclass(slots=True)
class Job:
    """One reply to sample.

    Attributes:
        ids: Token ids of the prompt.
        row: Where keys and values are kept; its ids are a proper prefix of `ids`.
        limit: Tokens to sample at most.
        uniforms: One number in [0, 1) per token to sample; None is greedy.
        generated: Receives the sampled ids, the end-of-turn token included.
        logprobs: Receives the log-probability of each, before temperature and top_p; None: they are
            not computed.
        ended: Becomes True where the reply came to its end, rather than to `limit`.
        start: Column of the first token while the job is in a batch.
    """

    ids: list[int]
    row: KVRow
    limit: int
    uniforms: Sequence[float] | None = None
    generated: list[int] = field(default_factory=list)
    logprobs: list[float] | None = None
    ended: bool = False
    start: int = 0


class Sampler:
    """Picks next tokens: greedily, or by inverting the cumulative distribution at given numbers."""

    def __init__(self, *, temperature: float, top_p: float) -> None:
        """Create the sampler.

        Args:
            temperature: 0 is greedy.
            top_p: Keep the most probable tokens up to this mass; 1 keeps all.
        """
        self.temperature = temperature
        self.top_p = top_p

    def __call__(self, logits: torch.Tensor, uniforms: list[float]) -> torch.Tensor:
        """Return one token id per row of `logits`; greedy sampling ignores `uniforms`."""
        if self.temperature == 0:
            return logits.argmax(-1)
        probs = torch.softmax(logits.float() / self.temperature, -1)  # (B, vocabulary)
        draws = torch.tensor(uniforms, dtype=torch.float64, device=logits.device)[:, None]
        order = None
        if self.top_p < 1:
            probs, order = probs.sort(dim=-1, descending=True, stable=True)
            before = probs.cumsum(-1, dtype=torch.float64) - probs
            probs = probs.masked_fill(before >= self.top_p, 0.0)
        # The first token at which the mass (B, vocabulary) is over the number drawn (B, 1).
        mass = probs.cumsum(-1, dtype=torch.float64)
        picks = torch.searchsorted(mass, draws * mass[:, -1:], right=True)
        picks = picks.clamp_(max=logits.shape[-1] - 1)
        return (picks if order is None else order.gather(-1, picks))[:, 0]


class Decoder:
    """Runs a causal language model over groups of jobs.

    Rows that have finished leave the batch at once, so a step costs what the remaining rows need.
    """

    def __init__(
        self,
        model: Any,
        *,
        sampler: Sampler,
        stop_ids: frozenset[int],
        stopped: Callable[[list[int]], bool] | None = None,
        prefill_tokens: int = 4096,
        compile: bool = False,
    ) -> None:
        """Create the decoder.

        Args:
            model: A causal language model of transformers, in eval mode.
            sampler: Picks the tokens.
            stop_ids: Tokens that end a reply.
            stopped: Tells from the sampled ids whether a stop string is complete; None looks for
                none.
            prefill_tokens: New tokens per forward pass while prompts are read. Bounds the memory
                of activations; more gains nothing once the matrices are large.
            compile: Decode by `torch.compile`, see `CompiledStep`; prompts are read without.

        Raises:
            EtoGymError: The step cannot be compiled.
        """
        self._model = model
        self.batch = KVBatch(model)
        self._cache: dict[str, Any] = {cache_argument(model): self.batch}
        self._sampler = sampler
        self._stop_ids = stop_ids
        self._stopped = stopped
        self._prefill_tokens = prefill_tokens
        self._device = next(model.parameters()).device
        self._dtype = self.batch.dtype
        # With plain causal attention under SDPA the mask of a whole decoding loop is built once.
        # Otherwise (windows, ALiBi) transformers builds it from the padding, at every step.
        config = model.config.get_text_config(decoder=True)
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        self._own_mask = (
            config._attn_implementation == "sdpa"
            and kinds == {"full_attention"}
            and getattr(config, "sliding_window", None) is None
            and not getattr(config, "alibi", False)
        )
        self._compiled: CompiledStep | None = None
        if compile:
            if not self._own_mask:
                has = f"{', '.join(sorted(kinds))} by {config._attn_implementation}"
                raise EtoGymError(
                    "compile=true needs full attention by SDPA in every layer: "
                    f"{type(model).__name__} has {has}. Leave compile out"
                )
            self._compiled = CompiledStep(model, self.batch)

    @torch.inference_mode()
    def prefill(self, ids: list[int], row: KVRow) -> None:
        """Compute the keys and values of `ids` into `row`, and sample nothing."""
        job = Job(ids, row, limit=0)
        self._load([job], columns=len(ids))
        self._read([job])
        row.store(self.batch, 0, 0, ids, len(row.ids))

    @torch.inference_mode()
    def run(self, jobs: list[Job]) -> None:
        """Sample the replies of all `jobs` together, and bring their rows up to date."""
        jobs = sorted(jobs, key=lambda job: len(job.ids) - len(job.row.ids), reverse=True)
        columns = max(len(job.ids) for job in jobs) + max(job.limit for job in jobs)
        self._load(jobs, columns=columns)
        logits = self._read(jobs)
        with self._packed_heads():
            self._decode(jobs, logits, columns)

    # --- reading prompts -------------------------------------------------------------------------

    def _load(self, jobs: list[Job], *, columns: int) -> None:
        """Lay the jobs' rows side by side, so that all prompts end in the same column."""
        room = (len(jobs), columns)
        self.batch.lay_out(*(self._compiled.room(*room) if self._compiled else room))
        width = max(len(job.ids) for job in jobs)
        for i, job in enumerate(jobs):
            job.start = width - len(job.ids)
            job.row.load(self.batch, i, job.start, len(job.row.ids))

    def _read(self, jobs: list[Job]) -> torch.Tensor:
        """Compute what the rows lack of their prompts; return the logits after each prompt."""
        logits, first = [], 0
        while first < len(jobs):  # the most new tokens come first
            query = len(jobs[first].ids) - len(jobs[first].row.ids)
            count = max(1, self._prefill_tokens // query)
            rows = slice(first, min(first + count, len(jobs)))
            logits.append(self._read_slice(jobs[rows], rows, query))
            first += count
        return torch.cat(logits)

    def _read_slice(self, jobs: list[Job], rows: slice, query: int) -> torch.Tensor:
        """Compute the last `query` tokens of these prompts.

        Where a row needs fewer, some that it holds are computed again: that costs what padding
        would, and needs no mask.
        """
        batch = self.batch
        end = jobs[0].start + len(jobs[0].ids)
        batch.rows, batch.column = rows, end - query
        batch.left = min(batch.column, *(job.start for job in jobs))
        # B rows, K columns from the leftmost start on, of which the last Q are computed.
        starts = self._tensor([job.start for job in jobs])  # (B,)
        keys = torch.arange(batch.left, end, device=self._device)
        queries = keys[-query:]
        mask = keys >= starts[:, None]  # (B, K)
        if self._own_mask:
            # Padding attends to itself, lest it become NaN and spread.
            causal = mask[:, None] & (keys <= queries[:, None]) | (keys == queries[:, None])
            mask = causal[:, None]  # (B, Q, K) -> (B, 1, Q, K)
        ids = [[0] * (query - len(job.ids)) + job.ids[-query:] for job in jobs]
        positions = (queries - starts[:, None]).clamp_(min=0)  # (B, Q)
        return self._forward(self._tensor(ids), positions, mask)

    @contextlib.contextmanager
    def _packed_heads(self) -> Iterator[None]:
        """Let one query per row attend with the heads that share keys as its rows.

        In 16 bits torch's kernel for a CPU takes four times as long with the heads one by one; in
        32 bits, and with many queries, it does not matter. transformers packs them from 5.23 on,
        unless they are left to torch.
        """
        packs = self._dtype.itemsize == 2 and hasattr(sdpa_attention, "pack_gqa")
        if not (packs and self._device.type == "cpu" and os.environ.get(FORCE_GQA) == "1"):
            yield
            return
        os.environ[FORCE_GQA] = "0"
        try:
            yield
        finally:
            os.environ[FORCE_GQA] = "1"

    # --- sampling replies ------------------------------------------------------------------------

    def _decode(self, jobs: list[Job], logits: torch.Tensor, columns: int) -> None:
        batch = self.batch
        batch.column = jobs[0].start + len(jobs[0].ids)
        starts = self._tensor([job.start for job in jobs])
        mask = torch.arange(columns, device=self._device) >= starts[:, None]
        if self._own_mask:
            mask = mask[:, None, None]  # (B, columns) -> (B, 1, 1, columns)
        step = 0
        while True:
            draws = [job.uniforms[step] if job.uniforms else 0.0 for job in jobs]
            picks = self._sampler(logits, draws)
            if any(job.logprobs is not None for job in jobs):
                _note_logprobs(jobs, logits, picks)
            step += 1
            done = []
            for i, (job, token) in enumerate(zip(jobs, picks.tolist(), strict=True)):
                job.generated.append(token)
                job.ended = token in self._stop_ids or (
                    self._stopped is not None and self._stopped(job.generated)
                )
                if job.ended or step == job.limit:
                    done.append(i)
            if done:
                kept = self._retire(jobs, done)
                if not kept:
                    return
                jobs = [jobs[i] for i in kept]
                index = self._tensor(kept)
                picks, starts, mask = picks[index], starts[index], mask[index]
            if self._compiled:
                logits = self._compiled(picks, starts, batch.column)
            else:
                batch.rows = slice(0, len(jobs))
                batch.left = min(job.start for job in jobs)
                logits = self._forward(
                    picks[:, None],
                    (batch.column - starts)[:, None],
                    mask[..., batch.left : batch.column + 1],
                )
            batch.column += 1

    def _retire(self, jobs: list[Job], done: list[int]) -> list[int]:
        """Store the rows that are done and close the gaps; return which job each row now holds."""
        for i in done:
            job = jobs[i]
            held = job.ids + job.generated[:-1]  # the last one sampled was never read
            job.row.store(self.batch, i, job.start, held, len(job.row.ids))
        rest = len(jobs) - len(done)
        kept = list(range(rest))
        gone = set(done)
        movers = (i for i in range(rest, len(jobs)) if i not in gone)
        for hole in (i for i in done if i < rest):
            mover = next(movers)
            self.batch.move(mover, hole, jobs[mover].start)
            kept[hole] = mover
        return kept

    def _forward(
        self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        output = self._model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask,
            use_cache=True,
            logits_to_keep=1,
            **self._cache,
        )
        logits: torch.Tensor = output.logits[:, -1]  # (B, 1, vocabulary) -> (B, vocabulary)
        return logits

    def _tensor(self, values: list[Any]) -> torch.Tensor:
        return torch.tensor(values, device=self._device)


def _note_logprobs(jobs: list[Job], logits: torch.Tensor, picks: torch.Tensor) -> None:
    """Note how likely each token is that was picked; logits are (B, vocabulary), picks (B,)."""
    logps = logits.float().log_softmax(-1).gather(-1, picks[:, None])[:, 0]
    for job, logp in zip(jobs, logps.tolist(), strict=True):
        if job.logprobs is not None:
            job.logprobs.append(logp)
