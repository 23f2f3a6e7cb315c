"""A local Hugging Face causal language model as a policy that keeps what it has read."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from eto_gym.agents.models.codec import ChatCodec, Transcript
from eto_gym.agents.models.decoding import Decoder, Job
from eto_gym.agents.models.kv import KVRow
from eto_gym.agents.models.loading import load_model, load_tokenizer, read_template
from eto_gym.agents.models.room import check_prompt
from eto_gym.agents.models.sampling import Sampler
from eto_gym.agents.models.sizes import check_positions, check_vocabulary, longest_of
from eto_gym.agents.models.template import settle_template
from eto_gym.agents.options import (
    check_finite,
    check_flags,
    check_mapping,
    check_sampling,
    check_whole,
    stop_strings,
)
from eto_gym.agents.policy import Conversation, PolicyReply
from eto_gym.errors import EtoGymError, check_choice
from eto_gym.prompt import Message
from eto_gym.trajectories import ErrorKind

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SHARED_MIN = 16  # a shared start shorter than this is not worth keeping apart


class _Session:
    """What is kept of one conversation between turns: its tokens, and their keys and values."""

    __slots__ = ("row", "transcript")

    def __init__(self, transcript: Transcript) -> None:
        self.transcript = transcript
        self.row = KVRow()


class LocalPolicy:
    """Replies with a causal language model, many conversations at a time.

    Between turns each conversation keeps the keys and values of its tokens, so a turn computes only
    what is new; a start that conversations share (instruction and worked example) is computed once.
    The cache never changes what is said: before each reply the whole conversation's tokens are
    compared with the cached ones, and whatever differs is computed anew. So replies may be edited,
    episodes restored and keys reused.

    Sampling draws its numbers from the episode's seed and the length of the conversation. Apart
    from rounding in the matrix products, a reply does not depend on what else is in the batch.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        codec: ChatCodec,
        *,
        name: str = "local",
        temperature: float = 0.0,
        top_p: float = 1.0,
        max_new_tokens: int = 128,
        stop: str | Sequence[str] = (),
        context: int | None = None,
        on_full: Literal["error", "drop_oldest"] = "error",
        batch_size: int = 128,
        prefill_tokens: int | None = None,
        keep_cache: bool = True,
        max_cached_tokens: int | None = None,
        tokens: Literal["none", "ids", "logprobs"] = "none",
        keep_sampled: bool = False,
        lookup: int | None = None,
        compile: bool = False,
    ) -> None:
        """Create the policy from a loaded model; `from_pretrained` loads one.

        Args:
            model: A causal language model of transformers with attention layers only; sliding
                windows and chunks are fine, Mamba and linear attention are refused.
            codec: Turns conversations into tokens; training must use the same.
            name: Recorded with every trajectory.
            temperature: 0 (the default) is greedy.
            top_p: Sample from the most probable tokens up to this mass; 1 keeps all.
            max_new_tokens: Tokens of a reply at most; a longer one ends there.
            stop: Strings that end a reply; they are not part of it.
            context: Tokens of a conversation at most; None takes what the model's configuration
                names (`max_position_embeddings`, or what its family calls it).
            on_full: What to do where a conversation does not fit. "error" replies with the error
                kind "context". "drop_oldest" leaves out as few of the oldest exchanges as make room
                for a whole reply, and counts them as "dropped_messages". What stands before the
                episode's first reply stays, with the task in it. Replies of the episode are those
                marked `train`; where none is, nothing is left out.
            batch_size: Conversations computed at a time at most; longer batches are cut by length,
                on a CPU also where that is cheaper, or saves memory at little cost.
            prefill_tokens: New tokens per forward pass while conversations are read; what one lacks
                is read in one pass. None takes 1,024 on a CPU and 4,096 elsewhere.
            keep_cache: False computes every conversation from its beginning at each turn.
            max_cached_tokens: Tokens held for conversations that are not in the current batch, at
                most; those unused for longest go first. None sets no limit.
            tokens: "ids" returns with every reply the token ids that were read and sampled, which
                are then recorded with the trajectory; "logprobs" also how likely each was.
            keep_sampled: Go on from a reply with the very tokens that were sampled for it. By
                default its words are tokenised, as a server does it that is sent the conversation:
                where a model spells them in other tokens, it then reads other ones than it wrote.
            lookup: Tokens of a reply that are guessed at a time at most, from what followed the
                same tokens before in the conversation (prompt lookup), so that one pass may say
                several. What is said does not depend on it, apart from rounding. 0 guesses none.
                It needs full attention by SDPA in every layer. None guesses in float32 on a CPU, up
                to 4, and fewer where more than 8 conversations are decoded together.
            compile: Compile the decoding step by `torch.compile`, on a GPU into CUDA graphs. Takes
                up to minutes at the start; for models with full attention under SDPA.

        Raises:
            EtoGymError: An option has no meaning or cannot be had with this model, the model keeps
                other states than keys and values, or names no longest conversation.
        """
        check_sampling(temperature, top_p)
        check_finite(max_new_tokens=max_new_tokens, batch_size=batch_size)
        check_whole(1, max_new_tokens=max_new_tokens, batch_size=batch_size)
        check_whole(1, prefill_tokens=prefill_tokens, context=context)
        check_whole(0, max_cached_tokens=max_cached_tokens, lookup=lookup)
        check_flags(keep_cache=keep_cache, keep_sampled=keep_sampled, compile=compile)
        check_choice("on_full", on_full, ("error", "drop_oldest"))
        check_choice("tokens", tokens, ("none", "ids", "logprobs"))
        model.train(False)
        self._tokens = tokens
        self._keep_sampled = keep_sampled
        self.name = name
        self.codec = codec
        self._max_new_tokens = max_new_tokens
        self._sampled = temperature > 0
        self._stop = stop_strings(stop)
        # Some more, as a character whose first bytes are missing decodes to others.
        self._stop_tokens = 8 + max(
            (len(s.encode("utf-8", "replace")) for s in self._stop), default=0
        )
        self._on_full = on_full
        self._batch_size = batch_size
        self._keep_cache = keep_cache
        self._max_cached_tokens = max_cached_tokens
        self._episodes: OrderedDict[str, _Session] = OrderedDict()
        self._shared = KVRow()
        ends = model.generation_config.eos_token_id if model.generation_config else None
        self._stop_ids = frozenset(
            {codec.end_of_turn_id, *(ends if isinstance(ends, list) else [ends])} - {None}
        )
        self._decoder = Decoder(
            model,
            sampler=Sampler(temperature=temperature, top_p=top_p),
            stop_ids=self._stop_ids,
            stopped=self._has_stop if self._stop else None,
            prefill_tokens=prefill_tokens,
            lookup=lookup,
            compile=compile,
        )
        self.context = _context(model, context)

    @classmethod
    def from_pretrained(
        cls,
        model: str,
        *,
        adapter: str | None = None,
        dtype: str = "auto",
        device: str = "auto",
        quantization: Literal["none", "4bit", "8bit"] = "none",
        chat_template: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        date: str = "",
        **options: Any,
    ) -> Self:
        """Load a model by path or name, and its tokenizer.

        Args:
            model: Folder, or name on the Hugging Face hub.
            adapter: Folder or name of a LoRA adapter on top of it.
            dtype: "auto" (as saved), "float32", "bfloat16", "float16", or "hardware" (bfloat16
                where the device computes faster in it, else as saved).
            device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1", ...
            quantization: "4bit" (NF4) or "8bit" load the weights by bitsandbytes. That saves memory
                on a GPU with large weights; on a CPU it works but saves little.
            chat_template: Replaces the tokenizer's own template: a file, or the template itself.
            template_kwargs: Variables for the template (`enable_thinking`, `date_string`, ...).
            date: The date (YYYY-MM-DD) for templates that read the clock; "" for that of the run,
                see `eto_gym.agents.models.template`.
            options: Arguments of the constructor.

        Raises:
            EtoGymError: An option has no meaning, or the model cannot be loaded or be used with it.
            MissingDependencyError: A package that the model or an option needs is not installed.
        """
        check_mapping(template_kwargs=template_kwargs)
        options.setdefault("name", adapter or model)
        loaded = load_model(
            model,
            adapter=adapter,
            dtype=dtype,
            device=device,
            quantization=quantization,
            pack=not options.get("compile"),
        )
        tokenizer = load_tokenizer(model)
        embedding: Any = loaded.get_input_embeddings()
        check_vocabulary(tokenizer, embedding.weight.shape[0], model)
        own = getattr(tokenizer, "chat_template", None)
        template = own if chat_template is None else read_template(chat_template)
        if isinstance(template, str):
            template = settle_template(template, template_kwargs or {}, date)
        codec = ChatCodec(tokenizer, chat_template=template)
        return cls(loaded, codec, **options)

    # --- the policy's interface ------------------------------------------------------------------

    def act(self, conversations: Sequence[Conversation]) -> list[PolicyReply]:
        """Return one reply per conversation, in order.

        Raises:
            EtoGymError: Two conversations have the same key, or the chat template rejects one.
        """
        if len({c.key for c in conversations}) < len(conversations):
            raise EtoGymError("two conversations of a batch have the same key")
        prompts = [self._prompt(c) for c in conversations]
        fitting = [i for i, (ids, _) in enumerate(prompts) if len(ids) < self.context]
        waiting = [(self._episodes[conversations[i].key], prompts[i][0]) for i in fitting]
        # What is recorded of an episode does not depend on which others happen to be played.
        held = {i: _held(own.row, ids) for i, (own, ids) in zip(fitting, waiting, strict=True)}
        if self._keep_cache:
            self._share_start(waiting)
            for own, ids in waiting:
                self._take_over(own, ids)
        jobs = {i: self._job(conversations[i], prompts[i][0]) for i in fitting}
        self._decoder.run(list(jobs.values()), self._batch_size)
        replies = []
        for i, (ids, dropped) in enumerate(prompts):
            job = jobs.get(i)
            usage = {"prompt_tokens": len(ids), "prefilled_tokens": 0, "decoded_tokens": 0}
            if dropped:
                usage["dropped_messages"] = dropped
            if job is None:
                replies.append(PolicyReply("", usage, error="context"))
                continue
            usage["prefilled_tokens"] = len(ids) - held[i]
            usage["decoded_tokens"] = len(job.generated)
            if job.broken:
                replies.append(PolicyReply("", usage, error="policy"))
                continue
            full = not job.ended and job.limit < self._max_new_tokens
            text = "" if full else self._text(job.generated)
            error: ErrorKind | None = "context" if full else None
            truncated = not (job.ended or full)
            if self._keep_sampled:
                transcript = self._episodes[conversations[i].key].transcript
                ended = job.generated[-1] in self._stop_ids
                transcript.sampled = (text, job.generated[: -1 if ended else None])
            told = self._told(ids, job)
            replies.append(PolicyReply(text, usage, error=error, truncated=truncated, **told))
        self._evict()
        return replies

    def check_prompt(self, head: Sequence[Message], history: str) -> None:
        """Refuse conversations that begin so, where the template or the context has no room."""
        check_prompt(self.codec, head, history, context=self.context)

    def release(self, key: str) -> None:
        """Forget an episode that has ended."""
        self._episodes.pop(key, None)

    # --- one conversation ------------------------------------------------------------------------

    def _prompt(self, conversation: Conversation) -> tuple[list[int], int]:
        """Return the prompt's ids, and how many messages were left out of it."""
        episode = self._episodes.get(conversation.key)
        if episode is None:
            episode = _Session(self.codec.transcript())
            self._episodes[conversation.key] = episode
        self._episodes.move_to_end(conversation.key)
        messages = list(conversation.messages)
        ids = self.codec.extend(episode.transcript, messages)
        room = self.context - self._max_new_tokens
        if self._on_full == "error" or len(ids) <= room:
            return list(ids), 0
        # What comes before the agent's own replies: rules, examples, and the task. Where no reply
        # is marked as its own, that is all: a worked example looks like any other exchange.
        head = next((i for i, m in enumerate(messages) if m.train), len(messages))
        exchanges = (len(messages) - head - 1) // 2  # all that can be left out but the last word
        least, most, found = 0, max(0, exchanges), None
        while least < most:  # few are tried: each is a whole conversation to lay out
            middle = (least + most) // 2
            if len(tried := self._without(messages, head, middle)) <= room:
                most, found = middle, tried
            else:
                least = middle + 1
        if not most:
            return list(ids), 0
        return (self._without(messages, head, most) if found is None else found), 2 * most

    def _without(self, messages: list[Message], head: int, exchanges: int) -> list[int]:
        """Return the ids of a prompt without the exchanges that come first after its head."""
        kept = [*messages[:head], *messages[head + 2 * exchanges :]]
        return list(self.codec.generation_prompt(kept))

    def _job(self, conversation: Conversation, ids: list[int]) -> Job:
        row = self._episodes[conversation.key].row if self._keep_cache else KVRow()
        row.ids = row.ids[: _held(row, ids)]
        limit = min(self._max_new_tokens, self.context - len(ids))
        uniforms = None
        if self._sampled:
            seed = [conversation.seed, conversation.position]
            uniforms = np.random.default_rng(seed).random(limit).tolist()
        logprobs: list[float] | None = [] if self._tokens == "logprobs" else None
        return Job(ids, row, limit, uniforms, logprobs=logprobs)

    def _told(self, ids: list[int], job: Job) -> dict[str, Any]:
        """Return what a reply tells of its tokens."""
        if self._tokens == "none":
            return {}
        told = {"prompt_ids": ids, "token_ids": list(job.generated)}
        return {**told, "logprobs": job.logprobs} if job.logprobs is not None else told

    def _text(self, generated: list[int]) -> str:
        ids = generated[:-1] if generated[-1] in self._stop_ids else generated
        text = self.codec.decode_reply(ids)
        return text[: min((text.find(s) for s in self._stop if s in text), default=len(text))]

    def _has_stop(self, generated: list[int]) -> bool:
        # A stop string ends in the last token. To decode all of them each time is quadratic, so
        # that is done where the last ones show one: a token has a byte at least.
        for ids in (generated[-self._stop_tokens :], generated):
            text = self.codec.decode_reply(ids)
            if not any(s in text for s in self._stop):
                return False
        return True

    # --- the cache -------------------------------------------------------------------------------

    def _share_start(self, waiting: list[tuple[_Session, list[int]]]) -> None:
        """Give conversations that hold nothing yet the start that they share with others."""
        new = [(episode, ids) for episode, ids in waiting if not episode.row.ids]
        if len(new) > 1:
            first, last = min(ids for _, ids in new), max(ids for _, ids in new)
            start = first[: _common(first, last)]
            if len(start) > max(_SHARED_MIN, _common(self._shared.ids, start)):
                shared = KVRow()
                self._decoder.prefill(start, shared)
                self._shared = shared
        for episode, ids in new:
            length = _held(self._shared, ids)
            if length >= _SHARED_MIN:
                episode.row = self._shared.head(length)

    def _take_over(self, episode: _Session, ids: list[int]) -> None:
        """Copy what another conversation holds of the same tokens, if that is more.

        Several episodes of a task begin alike, for as long as the same is said in them.
        """
        best, length = None, _common(episode.row.ids, ids) + _SHARED_MIN
        for other in self._episodes.values():
            row = other.row
            if length > len(row.ids) or length >= len(ids):
                continue
            # Of many conversations most differ here already: a glance is all that they cost.
            if row.ids[length - 1] == ids[length - 1] and row.ids[:length] == ids[:length]:
                best, length = row, _held(row, ids) + 1
        if best is not None:
            episode.row = best.copy(length - 1)

    def _evict(self) -> None:
        if self._max_cached_tokens is None:
            return
        held = sum(episode.row.columns for episode in self._episodes.values())
        for episode in self._episodes.values():
            if held <= self._max_cached_tokens:
                break
            held -= episode.row.columns
            episode.row = KVRow()


def _context(model: PreTrainedModel, asked: int | None) -> int:
    """Return the longest conversation that a model is to read.

    Raises:
        EtoGymError: Its configuration names none, and none was asked for; or it cannot read one of
            the length that was asked for.
    """
    if asked is not None:
        check_positions(model, asked, "a context as long as that cannot be had")
        return asked
    config = model.config.get_text_config()
    if (longest := longest_of(config)) is None:
        raise EtoGymError(
            f"the configuration of {type(model).__name__} names no longest conversation: say how "
            "many tokens it may have, by --max-context N (in Python context=N)"
        )
    return longest


def _held(row: KVRow, ids: list[int]) -> int:
    """Return how many first ids need not be computed; the last always is, for its logits."""
    return min(_common(row.ids, ids), len(ids) - 1)


def _common(held: list[int], ids: list[int]) -> int:
    """Return how many first ids both lists share."""
    if held == ids[: len(held)]:
        return len(held)
    pairs = enumerate(zip(held, ids, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(held), len(ids)))
