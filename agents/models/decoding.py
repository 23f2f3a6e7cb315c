"""Batched decoding of many conversations at once, over key-value rows that outlive a turn."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from eto_gym.agents.models.attention import keys_left_shared, packed_heads
from eto_gym.agents.models.batches import Costs
from eto_gym.agents.models.compiled import CompiledStep
from eto_gym.agents.models.kv import KVBatch, KVRow, cache_argument
from eto_gym.agents.models.lookup import Lookup
from eto_gym.agents.models.sampling import Sampler, no_numbers
from eto_gym.errors import EtoGymError

logger = logging.getLogger(__name__)

LOOKUP = 4
"""Tokens of a row that are guessed at most where nothing is said of it."""

GUESSES_OF_ALL = 32
"""Tokens that the rows of a pass guess then together. On a CPU a pass over few rows costs what it
reads, weights and kept keys; one over many costs what it computes: benchmarks/results.md, "Guessed
tokens"."""


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
        broken: Becomes True where the model gave no numbers (NaN) to sample from; the row then
            holds nothing any more.
        start: Column of the first token while the job is in a batch.
        lookup: Guesses the next tokens, where tokens are guessed.
    """

    ids: list[int]
    row: KVRow
    limit: int
    uniforms: Sequence[float] | None = None
    generated: list[int] = field(default_factory=list)
    logprobs: list[float] | None = None
    ended: bool = False
    broken: bool = False
    start: int = 0
    lookup: Lookup | None = None

    @property
    def lacks(self) -> int:
        """How many tokens of the prompt its row does not hold."""
        return len(self.ids) - len(self.row.ids)


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
        prefill_tokens: int | None = None,
        lookup: int | None = None,
        compile: bool = False,
    ) -> None:
        """Create the decoder.

        Args:
            model: A causal language model of transformers, in eval mode.
            sampler: Picks the tokens.
            stop_ids: Tokens that end a reply.
            stopped: Tells from the sampled ids whether a stop string is complete; None looks for
                none.
            prefill_tokens: New tokens per forward pass while prompts are read, where that holds
                more than one prompt. Bounds the memory of activations; more gains nothing once the
                matrices are large. None takes 1,024 on a CPU, so that what a layer makes of them
                stays near its caches, and 4,096 elsewhere.
            lookup: Tokens of each row to guess per pass at most, from what followed the same tokens
                before; 0 guesses none. None guesses where it pays and tells nothing apart, in
                float32 on a CPU, and the fewer the more rows there are.
            compile: Decode by `torch.compile`, see `CompiledStep`; prompts are read without.

        Raises:
            EtoGymError: The step cannot be compiled, tokens are to be guessed where attention needs
                rows of equal length, or both are asked for.
        """
        self._model = model
        self.batch = KVBatch(model)
        self._cache: dict[str, Any] = {cache_argument(model): self.batch}
        self._sampler = sampler
        self._told = False
        self._stop_ids = stop_ids
        self._stopped = stopped
        self._device = next(model.parameters()).device
        on_cpu = self._device.type == "cpu"
        self._sharing = keys_left_shared if on_cpu else contextlib.nullcontext()
        self._costs: Costs | None = None
        if on_cpu and not compile:  # a compiled step wants the same rows, and a GPU as many
            held = (*model.parameters(), *model.buffers())  # packed weights are buffers
            self._costs = Costs(
                weights=sum(tensor.numel() * tensor.element_size() for tensor in held),
                layers=len(self.batch.layers),
                token=self.batch.bytes_per_token,
            )
        self._prefill_tokens = prefill_tokens or (1024 if on_cpu else 4096)
        self._dtype = self.batch.kept_dtype
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
        self._share_guesses = lookup is None
        if lookup is None:
            plain = on_cpu and self._dtype == torch.float32
            lookup = LOOKUP if plain and self._own_mask and not compile else 0
        if compile and lookup:
            raise EtoGymError(
                "expected compile or lookup, got both: a compiled pass reads one token"
            )
        if (compile or lookup) and not self._own_mask:
            asked = "compile=true" if compile else f"lookup={lookup}"
            has = f"{', '.join(sorted(kinds))} by {config._attn_implementation}"
            raise EtoGymError(
                f"{asked} needs full attention by SDPA in every layer: {type(model).__name__} has "
                f"{has}. Leave it out"
            )
        self._lookup = lookup
        self._compiled: CompiledStep | None = None
        if compile:
            with packed_heads(model):
                self._compiled = CompiledStep(model, self.batch)

    @torch.inference_mode()
    def prefill(self, ids: list[int], row: KVRow) -> None:
        """Compute the keys and values of `ids` into `row`, and sample nothing."""
        job = Job(ids, row, limit=0)
        self._load([job], columns=len(ids))
        with self._sharing:
            logits = self._read([job])
        if no_numbers(logits).any():
            self.batch.clear(0)
        else:
            row.store(self.batch, 0, 0, ids, len(row.ids))

    def run(self, jobs: list[Job], most: int) -> None:
        """Sample the replies of all `jobs`, and bring their rows up to date.

        Args:
            jobs: What is to be said, in any order.
            most: Rows that are computed together.
        """
        jobs = sorted(jobs, key=lambda job: len(job.ids) + job.limit)
        if self._costs is None:
            batches = [slice(first, first + most) for first in range(0, len(jobs), most)]
        else:
            batches = self._costs.cut([len(job.ids) + job.limit for job in jobs], most)
        with self._sharing:
            for batch in batches:
                self._run(jobs[batch])
        if (broken := sum(job.broken for job in jobs)) and not self._told:
            self._told = True
            logger.warning(
                "the model gave no numbers (NaN) to choose a reply from, in %d of %d conversations "
                "(they end with the error 'policy'; this is said once): %s is too small a type for "
                "it, or its weights are broken",
                broken,
                len(jobs),
                str(self._dtype).removeprefix("torch."),
            )

    @torch.inference_mode()
    def _run(self, jobs: list[Job]) -> None:
        """Sample the replies of a batch."""
        jobs, twins = _by_need(jobs)
        columns = max(len(job.ids) for job in jobs) + max(job.limit for job in jobs) + self._lookup
        self._load(jobs, columns=columns)
        logits = self._take_over(jobs, twins, self._read(jobs[: len(jobs) - len(twins)]))
        with packed_heads(self._model) if self._own_mask else contextlib.nullcontext():
            self._decode(jobs, logits)

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
            query = jobs[first].lacks
            count = max(1, self._prefill_tokens // query)
            rows = slice(first, min(first + count, len(jobs)))
            logits.append(self._read_slice(jobs[rows], rows, query))
            first += count
        return torch.cat(logits)

    def _take_over(self, jobs: list[Job], twins: list[int], logits: torch.Tensor) -> torch.Tensor:
        """Give the last jobs what those that `twins` names computed; return the logits of all."""
        for row, twin in enumerate(twins, start=len(jobs) - len(twins)):
            job = jobs[row]
            start = job.start + len(job.row.ids)
            self.batch.copy(twin, row, start, job.start + len(job.ids))
        return torch.cat([logits, logits[self._tensor(twins)]]) if twins else logits

    def _read_slice(self, jobs: list[Job], rows: slice, query: int) -> torch.Tensor:
        """Compute the last `query` tokens of these prompts.

        Where a row needs fewer, some that it holds are computed again: that costs what padding
        would, and needs no mask.
        """
        batch = self.batch
        end = jobs[0].start + len(jobs[0].ids)
        batch.rows, batch.column, batch.places = rows, end - query, None
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
        return self._forward(self._tensor(ids), positions, mask, keep=1)[:, -1]

    # --- sampling replies ------------------------------------------------------------------------

    def _decode(self, jobs: list[Job], logits: torch.Tensor) -> None:
        """Sample all replies; `logits` (B, vocabulary) follow the prompts.

        A pass reads the token that was sampled last, and after it tokens that are guessed to come
        next. What is sampled does not depend on the guesses: where one is the token that is sampled
        in its place, the pass has read it already, and what follows it is sampled as well.
        """
        starts = self._tensor([job.start for job in jobs])  # (B,)
        # Of each row the column of the token that is read next: all before it have been read.
        at = [jobs[0].start + len(jobs[0].ids) - 1] * len(jobs)
        guesses: list[list[int]] = [[] for _ in jobs]
        logits = logits[:, None]  # (B, queries, vocabulary)
        while True:
            picks, logps = self._pick(jobs, logits)
            broken = no_numbers(logits).any(-1).tolist()
            done = []
            for i, job in enumerate(jobs):
                said = len(job.generated)
                if broken[i]:
                    job.broken = True
                    done.append(i)
                elif self._say(job, picks[i], guesses[i], logps[i] if logps else None):
                    done.append(i)
                at[i] += len(job.generated) - said
            self.batch.column = max(at)
            if done:
                kept = self._retire(jobs, done)
                if not kept:
                    return
                jobs, at = [jobs[i] for i in kept], [at[i] for i in kept]
                starts = starts[self._tensor(kept)]
            each = self._lookup
            if self._share_guesses:
                each = min(each, GUESSES_OF_ALL // len(jobs))
            guesses = [self._guess(job, each) for job in jobs]
            logits = self._step(jobs, starts, at, guesses)

    def _guess(self, job: Job, count: int) -> list[int]:
        """Return tokens that a row may say after the last one, no more than it may still say."""
        count = min(count, job.limit - len(job.generated) - 1)
        if count < 1:
            return []
        if job.lookup is None:
            job.lookup = Lookup(job.ids)
            for token in job.generated:
                job.lookup.add(token)
        return job.lookup.guess(count)

    def _step(
        self, jobs: list[Job], starts: torch.Tensor, at: list[int], guesses: list[list[int]]
    ) -> torch.Tensor:
        """Read each row's last token and its guesses; return the logits (B, Q, vocabulary)."""
        batch = self.batch
        width = 1 + max(len(guess) for guess in guesses)
        batch.rows, batch.column = slice(0, len(jobs)), max(at)
        if self._compiled:
            last = self._tensor([job.generated[-1] for job in jobs])
            return self._compiled(last, starts, batch.column)[:, None]
        batch.left = min(job.start for job in jobs)
        # Rows with fewer guesses than others read something more, which is written over later.
        rows = zip(jobs, guesses, strict=True)
        ids = [[job.generated[-1], *guess, *[0] * (width - 1 - len(guess))] for job, guess in rows]
        offsets = torch.arange(width, device=self._device)
        queries = self._tensor(at)[:, None] + offsets  # (B, Q)
        batch.places = None
        if width > 1 or min(at) < batch.column:
            batch.places = (torch.arange(len(jobs), device=self._device)[:, None], queries)
        keys = torch.arange(batch.left, batch.column + width, device=self._device)
        mask = keys >= starts[:, None]  # (B, K)
        if self._own_mask:
            mask = (mask[:, None] & (keys <= queries[..., None]))[:, None]  # (B, 1, Q, K)
        # What is no guess stays at the position of the last one: there may be none after it.
        last = self._tensor([len(guess) for guess in guesses])[:, None]
        positions = queries - starts[:, None] - (offsets - last).clamp_(min=0)  # (B, Q)
        return self._forward(self._tensor(ids), positions, mask, keep=width)

    def _pick(
        self, jobs: list[Job], logits: torch.Tensor
    ) -> tuple[list[list[int]], list[list[float]] | None]:
        """Sample after each query of `logits` (B, Q, vocabulary), as if all guesses were right.

        Returns:
            Token ids, (B, Q); and their log-probabilities where a job wants them.
        """
        width = logits.shape[1]
        draws = []
        for job in jobs:
            first, last = len(job.generated), job.limit - 1
            draws += (
                [job.uniforms[min(first + j, last)] for j in range(width)]
                if job.uniforms
                else [0.0] * width
            )
        picks = self._sampler(logits.flatten(0, 1), draws).view(len(jobs), width)
        if all(job.logprobs is None for job in jobs):
            return picks.tolist(), None
        # (B, Q, vocabulary) -> (B, Q)
        logps = logits.float().log_softmax(-1).gather(-1, picks[..., None])[..., 0]
        return picks.tolist(), logps.tolist()

    def _say(
        self, job: Job, picks: list[int], guesses: list[int], logps: list[float] | None
    ) -> bool:
        """Take what was sampled up to the first wrong guess; return whether the reply is over."""
        for j, token in enumerate(picks):
            job.generated.append(token)
            if job.logprobs is not None and logps is not None:
                job.logprobs.append(logps[j])
            job.ended = token in self._stop_ids or (
                self._stopped is not None and self._stopped(job.generated)
            )
            if job.ended or len(job.generated) == job.limit:
                return True
            if job.lookup is not None:
                job.lookup.add(token)
            if j == len(guesses) or guesses[j] != token:
                return False
        return False

    def _retire(self, jobs: list[Job], done: list[int]) -> list[int]:
        """Store the rows that are done and close the gaps; return which job each row now holds."""
        for i in done:
            job = jobs[i]
            if job.broken:
                self.batch.clear(i)
                job.row.forget()
                continue
            held = job.ids + job.generated[:-1]  # the last one sampled was never read
            job.row.store(self.batch, i, job.start, held, len(job.row.ids))
        rest = len(jobs) - len(done)
        kept = list(range(rest))
        gone = set(done)
        movers = (i for i in range(rest, len(jobs)) if i not in gone)
        for hole in (i for i in done if i < rest):
            mover = next(movers)
            self.batch.copy(mover, hole, jobs[mover].start, self.batch.column)
            kept[hole] = mover
        return kept

    def _forward(
        self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, *, keep: int
    ) -> torch.Tensor:
        """Return the logits after the last `keep` queries, as (B, keep, vocabulary)."""
        output = self._model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask,
            use_cache=True,
            logits_to_keep=keep,
            **self._cache,
        )
        logits: torch.Tensor = output.logits[:, -keep:]
        return logits

    def _tensor(self, values: list[Any]) -> torch.Tensor:
        return torch.tensor(values, device=self._device)


def _by_need(jobs: list[Job]) -> tuple[list[Job], list[int]]:
    """Order jobs so that those that compute the most of their prompts come first.

    A prompt that several jobs have is computed for one of them, that which lacks the least of it.

    Returns:
        The jobs, with those at the end for which nothing is computed; and of each of these the
        number of the job that has the same prompt.
    """
    first: dict[tuple[int, ...], Job] = {}
    others = []
    for job in sorted(jobs, key=lambda job: job.lacks):
        if first.setdefault(tuple(job.ids), job) is not job:
            others.append(job)
    computed = list(first.values())[::-1]
    place = {id(job): i for i, job in enumerate(computed)}
    return [*computed, *others], [place[id(first[tuple(job.ids)])] for job in others]
