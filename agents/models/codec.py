"""The chat codec: turns a conversation into tokens, for rollouts and training alike.

A rollout meets a conversation turn by turn: it reads a prompt, samples a reply up to the
end-of-turn token, reads the next observation, and so on. `ChatCodec` tokenises exactly these
pieces, so the ids of a prefix never change when the conversation goes on, and the tokens marked for
training are the ones that a rollout samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from eto_gym.agents.models.pieces import PieceTokenizer
from eto_gym.errors import EtoGymError
from eto_gym.prompt import Message
from eto_gym.reasoning import closed_blocks, closed_by, open_block, split_reasoning

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = "\N{LEFT BLACK LENTICULAR BRACKET}probe{}\N{RIGHT BLACK LENTICULAR BRACKET}"


class Encoded(NamedTuple):
    """A tokenised conversation.

    Attributes:
        input_ids: Token ids up to the end-of-turn token of the last assistant message, or to the
            end of the last message where the conversation does not end with the assistant.
        train_mask: One flag per token: True for what a rollout samples in messages with `train`.
    """

    input_ids: list[int]
    train_mask: list[bool]


class _Piece(NamedTuple):
    """Tokens that enter a rollout at once; `message` is the reply's index, None for a prompt."""

    ids: list[int]
    message: int | None


class RewrittenHistoryError(EtoGymError):
    """A chat template changes what it rendered before when messages follow.

    Such a conversation is no one row of tokens: each reply has a prompt of its own.
    """


@dataclass(slots=True)
class Transcript:
    """The tokenised part of one growing conversation; made by `ChatCodec.transcript`.

    Attributes:
        messages: What `ids` and `text` render.
        ids: Token ids of a prompt that ends where the assistant's next reply begins.
        text: The rendered text of `ids`.
        rewritten: Whether the template has changed what it rendered before, and so every prompt is
            rendered anew.
        sampled: Words of the reply that was sampled last, and its ids without the one that ended
            it: they are kept as they are where the conversation goes on with these words.
    """

    messages: list[Message] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    text: str = ""
    rewritten: bool = False
    sampled: tuple[str, list[int]] | None = None


class ChatCodec:
    """Turns conversations into token ids with a tokenizer's own chat template.

    Most templates are stable: what they render for the first messages stays as it is when messages
    follow, so that a conversation is one row of tokens. One that rewrites history (it drops the
    thinking of earlier turns, or moves the system text) gives each reply a prompt of its own: a
    rollout reads it anew for every reply, and training must take a row per reply, since a model
    would otherwise be trained on prompts that it never met.

    Where such a template opens a reasoning block in the prompt, replies hold the opening mark too,
    so that it can be told whether the block closes. Where replies have channels, told apart by
    special tokens (gpt-oss), a reply with thoughts holds these marks as text, and one without is
    its words alone; history holds the words.

    Text in messages is never read as a special token: an observation or a reply that spells
    `<|im_end|>` is tokenised as these characters.

    Attributes:
        rewrites: Whether it was seen of the template that it rewrites history. One that does not
            show it on a short conversation may still do so on another.

    Example:
        >>> from eto_gym.agents.models.tiny import train_tokenizer
        >>> codec = ChatCodec(train_tokenizer(["go north"], vocab_size=300))
        >>> talk = [Message("user", "go"), Message("assistant", "north", train=True)]
        >>> ids, train = codec.encode(talk)
        >>> codec.decode_reply([i for i, kept in zip(ids, train) if kept])
        'north'
        >>> prompt = codec.generation_prompt(talk[:1])
        >>> ids[: len(prompt)] == prompt
        True
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        chat_template: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        mask_thoughts: bool = False,
    ) -> None:
        """Probe the template once.

        Args:
            tokenizer: A tokenizer of transformers.
            chat_template: A template (Jinja) that replaces the tokenizer's own; None keeps that.
            template_kwargs: Variables for the template (`date_string`, `enable_thinking`, ...).
                Set those that would otherwise change from day to day.
            mask_thoughts: Mark of a reply that is trained on only what follows its reasoning.

        Raises:
            EtoGymError: There is no template, or it closes a reply without a special token, or by
                one for the last reply and by another for earlier ones.
        """
        self.tokenizer = tokenizer
        self._template = chat_template
        self._mask_thoughts = mask_thoughts
        self._kwargs = dict(template_kwargs or {})
        if chat_template is None and not getattr(tokenizer, "chat_template", None):
            raise EtoGymError(
                "the tokenizer has no chat template: pass chat_template=, or save one with it"
            )
        self._tokens = PieceTokenizer(tokenizer)
        self._opened, self.rewrites, self._channels = "", False, False
        self._lead, self._gap, self.end_of_turn = self._probe_reply()
        self.end_of_turn_id: int = self._tokens.encode(self.end_of_turn)[0]

    # --- what callers use ------------------------------------------------------------------------

    def encode(self, messages: Sequence[Message]) -> Encoded:
        """Tokenise a conversation and mark what is trained on.

        Raises:
            RewrittenHistoryError: The template is not stable on the conversation, and another
                reply than the last is marked for training.
            EtoGymError: The template rejects the conversation.
        """
        try:
            return self._encode_whole(messages)
        except RewrittenHistoryError:
            if not messages or messages[-1].role != "assistant":
                raise
            if any(message.train for message in messages[:-1]):
                raise
        prompt = self._prompt_anew(messages[:-1])
        reply = self._reply_anew(messages[-1].content)
        return Encoded(prompt + reply, [False] * len(prompt) + self._marks(messages[-1], reply))

    def _encode_whole(self, messages: Sequence[Message]) -> Encoded:
        if self.rewrites:
            raise _known_to_rewrite()
        ids: list[int] = []
        mask: list[bool] = []
        for piece in self._pieces(messages, Transcript(), prompt_last=False):
            ids += piece.ids
            if piece.message is None:
                mask += [False] * len(piece.ids)
            else:
                mask += self._marks(messages[piece.message], piece.ids)
        return Encoded(ids, mask)

    def _marks(self, message: Message, ids: Sequence[int]) -> list[bool]:
        """Return which tokens of a reply are trained on: all or none, or those after thoughts."""
        thought = split_reasoning(message.content).reasoning if self._mask_thoughts else ""
        if not message.train or not thought:
            return [message.train] * len(ids)
        # The first tokens that spell the thought; one that spells some of the words too is theirs.
        low, high = 0, len(ids)
        while low < high:
            middle = (low + high + 1) // 2
            if len(self.decode_reply(ids[:middle])) <= len(thought):
                low = middle
            else:
                high = middle - 1
        return [False] * low + [True] * (len(ids) - low)

    def generation_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids after which the assistant's next reply is sampled."""
        return self.extend(self.transcript(), messages)

    def transcript(self) -> Transcript:
        """Return an empty transcript, which `extend` brings up to date turn by turn."""
        return Transcript()

    def extend(self, transcript: Transcript, messages: Sequence[Message]) -> list[int]:
        """Return `generation_prompt(messages)`, tokenising only what `transcript` lacks.

        A transcript whose messages are not a prefix of `messages` is tokenised anew. The returned
        list belongs to the transcript: do not change it.
        """
        known = len(transcript.messages)
        if list(messages[:known]) != transcript.messages or (
            0 < known < len(messages) and messages[known].role != "assistant"
        ):
            transcript.messages, transcript.ids, transcript.text = [], [], ""
            transcript.rewritten = False
        if len(messages) > len(transcript.messages):
            try:
                if self.rewrites or transcript.rewritten:
                    raise _known_to_rewrite()
                for piece in self._pieces(messages, transcript, prompt_last=True):
                    transcript.ids += piece.ids
            except RewrittenHistoryError:
                transcript.ids = self._prompt_anew(messages)
                transcript.messages, transcript.text = list(messages), ""
                transcript.rewritten = True
        return transcript.ids

    def decode_reply(self, ids: Sequence[int]) -> str:
        """Return the content of a reply from sampled ids, with or without the end-of-turn token."""
        kept = list(ids)
        if kept and kept[-1] == self.end_of_turn_id:
            kept.pop()
        text = self._tokens.decode(kept, special=self._channels)
        text = self._opened + text.removeprefix(self._lead)
        return text.removesuffix(self._gap) if self._gap else text

    # --- where the template rewrites history ------------------------------------------------------

    def _prompt_anew(self, messages: Sequence[Message]) -> list[int]:
        """Tokenise a prompt as a whole, whatever was rendered before."""
        self._check_turns(messages, prompt_last=True)
        rendered = self._render(messages, prompt=True)
        return self._tokenize_prompt(messages, 0, "", rendered, prompt=True)

    def _reply_anew(self, content: str) -> list[int]:
        """Tokenise what a rollout samples for a reply after such a prompt."""
        words = _valid(content)
        if self._channels and (split := split_reasoning(words)).reasoning:
            # The marks of the thoughts are special tokens, and the words are not.
            end = self._gap + self.end_of_turn
            before = self._tokens.encode(split.reasoning)
            spoken = split.spoken if not split.cut else ""
            return before + self._tokenize_reply(spoken, spoken + end)
        if self._opened and words.startswith(self._opened):
            words = words[len(self._opened) :]
        elif self._opened and not split_reasoning(words).reasoning:
            # A reply without a thought; the prompt has opened a block for one.
            words = f"\n{closed_by(self._opened)}\n\n{words}"
        if self._channels:
            return self._tokens.encode(self._lead) + self._tokenize_reply(
                words, words + self._gap + self.end_of_turn
            )
        return self._tokenize_reply(words, self._lead + words + self._gap + self.end_of_turn)

    # --- from messages to pieces -----------------------------------------------------------------

    def _pieces(
        self, messages: Sequence[Message], done: Transcript, *, prompt_last: bool
    ) -> Iterator[_Piece]:
        """Yield what `done` lacks, and bring its messages and text (not its ids) up to date.

        Prompts are rendered as the rollout renders them, with the generation prompt; each rendering
        must go on from the one before.
        """
        self._check_turns(messages, prompt_last=prompt_last)
        text, index = done.text, len(done.messages)
        cuts = [i for i, m in enumerate(messages) if m.role == "assistant" and i > index]
        for cut in [*cuts, len(messages)]:
            prompt = prompt_last or cut < len(messages)
            rendered = self._render(messages[:cut], prompt=prompt)
            if not rendered.startswith(text):
                raise _unstable(text, rendered)
            if messages[index].role == "assistant":
                reply = self._reply_text(messages[index].content, rendered[len(text) :])
                yield _Piece(self._ids_of_reply(messages[index].content, reply, done), index)
                text += reply
                index += 1
            if index < cut:
                yield _Piece(
                    self._tokenize_prompt(messages[:cut], index, text, rendered, prompt=prompt),
                    None,
                )
                text, index = rendered, cut
        done.messages, done.text = list(messages), text

    def _ids_of_reply(self, content: str, reply: str, done: Transcript) -> list[int]:
        """Return the ids of a reply: those that were sampled, where it is known which."""
        if done.sampled is not None:
            words, ids = done.sampled
            if words == content and self.decode_reply(ids) == content:
                return [*ids, self.end_of_turn_id]
        return self._tokenize_reply(content, reply)

    def _check_turns(self, messages: Sequence[Message], *, prompt_last: bool) -> None:
        if not messages:
            raise EtoGymError("expected at least one message, got an empty conversation")
        last: str | None = None
        for i, message in enumerate(messages):
            if message.role == "assistant" and last in (None, "assistant"):
                raise EtoGymError(
                    f"message {i} is the assistant's and follows "
                    f"{'nothing' if last is None else 'another of the assistant'}: "
                    "an observation must come between"
                )
            last = message.role
        if prompt_last and last == "assistant":
            raise EtoGymError("the conversation ends with the assistant: there is nothing to reply")

    def _reply_text(self, content: str, rest: str) -> str:
        """Return what a rollout samples for a reply, from the rendering that goes on with it."""
        clean = _valid(content)
        for shown in (clean, clean.strip(), clean.rstrip(), clean.lstrip()):
            reply = self._lead + shown + self._gap + self.end_of_turn
            if rest.startswith(reply):
                return reply
        if split_reasoning(clean).reasoning:
            raise _known_to_rewrite()  # it drops the thoughts of replies that are not the last
        raise EtoGymError(
            "the chat template changes the assistant's words: expected "
            f"{(self._lead + clean + self._gap + self.end_of_turn)[-120:]!r}, rendered "
            f"{rest[:120]!r}. Pass a chat_template that keeps them as they are."
        )

    def _tokenize_prompt(
        self, messages: Sequence[Message], first: int, text: str, rendered: str, *, prompt: bool
    ) -> list[int]:
        """Tokenise what `rendered` adds to `text`: the messages from `first` on, and the headers.

        Where a message spells a special token, the template is rendered once more with marks in
        place of such messages, which shows where their words begin and end.
        """
        rest = rendered[len(text) :]
        # The beginning of the conversation stands alone; all else follows the end of a reply.
        before: str | None = self.end_of_turn if text else ""
        unsafe = [i for i in range(first, len(messages)) if self._spells_special(messages[i])]
        if not unsafe:
            return self._tokens.encode(rest, after=before)
        masked = list(messages)
        for i in unsafe:
            masked[i] = Message(masked[i].role, _PROBE.format(i))
        frame = self._render(masked, prompt=prompt)
        if not frame.startswith(text):
            raise _unstable(text, frame)
        frame = frame[len(text) :]
        ids: list[int] = []
        for i in unsafe:
            head, found, frame = frame.partition(_PROBE.format(i))
            clean = self._shown(messages[i])
            after = frame[:end] if (end := frame.find(_PROBE[:6])) >= 0 else frame
            shown = next((s for s in (clean, clean.strip()) if rest.startswith(head + s)), None)
            if shown is None and split_reasoning(clean).reasoning:
                # It may drop the thought of a reply; the mark in its place has none.
                spoken = (split_reasoning(clean).spoken, clean.rpartition("</think>")[2])
                ways = (w for s in spoken for w in (s, s.strip(), s.lstrip("\n")))
                shown = next((w for w in ways if rest.startswith(head + w + after)), None)
            if not found or shown is None:
                raise EtoGymError(
                    "a message spells a special token, and the chat template does not keep the "
                    f"message's words apart: {clean[:80]!r}"
                )
            ids += self._tokens.encode(head, after=before) + self._tokens.encode(shown, plain=True)
            rest, before = rest[len(head) + len(shown) :], None
        return ids + self._tokens.encode(rest, after=before)

    def _spells_special(self, message: Message) -> bool:
        return self._tokens.special.search(self._shown(message)) is not None

    # --- rendering and tokenising ----------------------------------------------------------------

    def _render(self, messages: Sequence[Message], *, prompt: bool) -> str:
        chat = [{"role": m.role, "content": self._shown(m)} for m in messages]
        try:
            text = self.tokenizer.apply_chat_template(
                chat,
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=prompt,
                **self._kwargs,
            )
        except Exception as err:  # a template raises whatever its author chose
            roles = ", ".join(m.role for m in messages[:4])
            raise EtoGymError(
                f"the chat template rejects this conversation (roles: {roles}"
                f"{', ...' if len(messages) > 4 else ''}): {err}. Many templates know no system "
                "message, or want user and assistant in turn: put the system text into the first "
                "user message, or pass another chat_template."
            ) from err
        return str(text)

    def _shown(self, message: Message) -> str:
        """Return what a template is given of a message: of a reply with channels, its words."""
        if self._channels and message.role == "assistant":
            # Marks that a model put where none belongs are no words; templates refuse them there.
            words = self._tokens.special.sub("", _valid(split_reasoning(message.content).spoken))
            # What stood around a mark may be one itself; a character in its place makes no other.
            return self._tokens.special.sub("\N{REPLACEMENT CHARACTER}", words)
        return _valid(message.content)

    def _tokenize_reply(self, content: str, reply: str) -> list[int]:
        if not self._tokens.special.search(content):
            return self._tokens.encode(reply)
        words = reply.removesuffix(self.end_of_turn)
        return [*self._tokens.encode(words, plain=True), self.end_of_turn_id]

    def _probe_reply(self) -> tuple[str, str, str]:
        """Find what surrounds a reply: text before, text after, and the end-of-turn token.

        Where the template renders the last reply otherwise than earlier ones, nothing stands before
        a reply: all after the prompt is what a rollout samples.
        """
        probe = _PROBE.format("")
        talk = [Message("user", "a"), Message("assistant", probe), Message("user", "a")]
        prompt = self._render(talk[:1], prompt=True)
        tails: list[tuple[str | None, str, str]] = []
        for whole in (self._render(talk[:2], prompt=False), self._render(talk, prompt=True)):
            same = whole.startswith(prompt)
            before, found, tail = (whole[len(prompt) :] if same else whole).partition(probe)
            end = self._tokens.special.search(tail)
            if not found or end is None:
                raise EtoGymError(
                    "the chat template closes the assistant's reply without a special token, so a "
                    f"rollout could not tell where a reply ends: it renders {tail[:60]!r} after it"
                )
            tails.append((before if same else None, tail[: end.start()], end.group()))
        (lead, gap, close), later = tails
        if tails[0] == later and lead is not None:
            return lead, gap, close
        if lead is not None and close != later[2] and self._tokens.special.search(lead):
            # A channel of its own for what is said, and another mark at its end in history.
            self._channels = self.rewrites = True
            return lead, gap, close
        if (gap, close) != later[1:]:
            raise _unstable(*("".join(("REPLY", gap, end)) for _, gap, end in tails))
        self._opened, self.rewrites = open_block(prompt), True
        return "", gap, close


def _valid(text: str) -> str:
    """Replace lone surrogates, which no tokenizer can take."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _known_to_rewrite() -> RewrittenHistoryError:
    return RewrittenHistoryError("the chat template rewrites this conversation")


def _unstable(before: str, after: str) -> RewrittenHistoryError:
    same = next(
        (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b),
        min(len(before), len(after)),
    )
    start = max(0, same - 40)
    dropped = closed_blocks(before) > closed_blocks(after)
    cause = "It drops the thinking of earlier turns" if dropped else "That is the template's own"
    return RewrittenHistoryError(
        "the chat template is not stable: what it rendered for the first messages changes when "
        f"messages follow. It had {before[start : same + 40]!r}, and then "
        f"{after[start : same + 40]!r}. {cause}: pass a chat_template that keeps history as it is."
    )
