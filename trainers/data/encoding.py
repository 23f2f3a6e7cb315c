"""Tokenises trajectories and pairs: what is trained, what is cut, what is refused."""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, Protocol

from eto_gym.agents.models.codec import RewrittenHistoryError
from eto_gym.errors import DataError
from eto_gym.history import FULL
from eto_gym.prompt import Message
from eto_gym.trajectories import Trajectory
from eto_gym.trajectories.pairs import PreferencePair

logger = logging.getLogger(__name__)

SIDES = ("chosen", "rejected")


class EncodedConversation(Protocol):
    """Token ids, and one flag per token: whether it is trained on."""

    @property
    def input_ids(self) -> list[int]: ...  # noqa: D102

    @property
    def train_mask(self) -> list[bool]: ...  # noqa: D102


class Codec(Protocol):
    """What tokenises conversations; `eto_gym.agents.models.codec.ChatCodec` does."""

    def encode(self, messages: Sequence[Message]) -> EncodedConversation:
        """Tokenise a conversation and mark what is trained on."""


class TokenRow(NamedTuple):
    """One conversation as tokens; `mask` marks the tokens whose probability is trained."""

    ids: list[int]
    mask: list[bool]

    @property
    def trained(self) -> int:
        """Number of trained tokens."""
        return sum(self.mask)


@dataclass(frozen=True, slots=True)
class TokenPair:
    """The two sides of a pair, as tokens.

    Attributes:
        chosen: The chosen side, a conversation that begins as the other one does; of a bounded
            history, the first of the side's rows.
        rejected: The rejected side; a side without tokens is missing, see `PreferencePair`.
        more_chosen: The side's other rows; the log-probability of a side is the sum over its rows.
        more_rejected: The same of the rejected side.
        source: Its place among the pairs that were tokenised, those included that were dropped.
    """

    chosen: TokenRow
    rejected: TokenRow
    more_chosen: tuple[TokenRow, ...] = ()
    more_rejected: tuple[TokenRow, ...] = ()
    source: int = 0

    @property
    def sides(self) -> tuple[tuple[TokenRow, ...], tuple[TokenRow, ...]]:
        """All rows of the chosen side, and of the rejected one; none of a side that is missing."""
        return (
            (self.chosen, *self.more_chosen) if self.chosen.ids else (),
            (self.rejected, *self.more_rejected) if self.rejected.ids else (),
        )


class Loss(NamedTuple):
    """What one conversation, or one side of a pair, lost.

    Attributes:
        task_id: Its task.
        side: "conversation", "chosen" or "rejected".
        tokens: Its length before.
        turns: Agent turns before.
        kept: Agent turns that are left: the first ones. 0: the whole row is dropped.
    """

    task_id: str
    side: str
    tokens: int
    turns: int
    kept: int


@dataclass(slots=True)
class TokenReport:
    """What tokenisation did to the data; for pairs, both sides are counted.

    A conversation over `max_length` is refused, or loses whole turns at its end; its beginning, on
    which everything else builds, always stays. Nothing is cut within a turn.

    Attributes:
        rows: Conversations (SFT) or pairs (DPO) that are trained on.
        tokens: Tokens in them.
        trained_tokens: Tokens among these that are trained on.
        cut: Conversations, or sides of pairs, that lost whole turns at their end, also those that
            were dropped then.
        cut_turns: Agent turns lost in this way.
        dropped: Conversations or pairs without any trained turn within `max_length`.
        identical: Pairs whose sides became the same by cutting, and were dropped.
        longest: Length of the longest row in tokens, after cutting.
        cut_tokens: Tokens lost by cutting.
        cut_chosen: Sides among `cut` that were chosen ones.
        cut_rejected: Sides among `cut` that were rejected ones.
        losses: Every cut, with its task and its side.
    """

    rows: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    cut: int = 0
    cut_turns: int = 0
    dropped: int = 0
    identical: int = 0
    longest: int = 0
    cut_tokens: int = 0
    cut_chosen: int = 0
    cut_rejected: int = 0
    losses: list[Loss] = field(default_factory=list)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TokenReport:
        """Rebuild a report from its JSON form."""
        return cls(**{**data, "losses": [Loss(*item) for item in data.get("losses", [])]})

    def include(self, other: TokenReport) -> None:
        """Add what tokenisation did to more data."""
        for item in fields(TokenReport):
            one, more = getattr(self, item.name), getattr(other, item.name)
            setattr(self, item.name, max(one, more) if item.name == "longest" else one + more)

    def log(self, method: str) -> None:
        """Warn of everything that is not trained on."""
        if self.cut or self.dropped or self.identical:
            sides = f" ({self.cut_chosen} chosen, {self.cut_rejected} rejected)"
            logger.warning(
                "%s: %d %s cut at the end to max_length%s, losing %d agent turns and %d tokens; "
                "%d rows dropped for want of a trained turn, %d for identical sides",
                method,
                self.cut,
                "conversation" if self.cut == 1 else "conversations",
                sides if self.cut_chosen or self.cut_rejected else "",
                self.cut_turns,
                self.cut_tokens,
                self.dropped,
                self.identical,
            )

    def _add(self, row: TokenRow) -> None:
        self.tokens += len(row.ids)
        self.trained_tokens += row.trained
        self.longest = max(self.longest, len(row.ids))

    def _note_cut(self, task_id: str, side: str, fitted: _Fitted) -> None:
        if fitted.rows is None or not fitted.lost_turns:
            return
        kept = fitted.turns - fitted.lost_turns
        self.losses.append(Loss(task_id, side, fitted.length, fitted.turns, kept))
        self.cut += 1
        self.cut_turns += fitted.lost_turns
        self.cut_tokens += fitted.length - sum(len(row.ids) for row in fitted.rows)
        self.cut_chosen += side == "chosen"
        self.cut_rejected += side == "rejected"


def encode_trajectories(
    codec: Codec,
    trajectories: Iterable[Trajectory],
    *,
    max_length: int,
    truncation: str = "refuse",
    train_on: str = "assistant",
) -> tuple[list[TokenRow], TokenReport]:
    """Tokenise conversations for SFT.

    Of an episode that was played with a bounded history there is a row for each reply, after what
    was read for it; replies that were given to one growing prompt share a row.

    Args:
        codec: Tokenises and marks.
        trajectories: The conversations.
        max_length: Longest row in tokens.
        truncation: "refuse" or "cut", see `TrainSettings.truncation`.
        train_on: "assistant": the messages marked for training; "all": every token but the first.

    Raises:
        DataError: No row is left, or a conversation is too long and `truncation` is "refuse".
    """
    report = TokenReport()
    rows: list[TokenRow] = []
    too_long: list[tuple[str, int]] = []
    fitted_rows = (
        (t.task_id, fitted)
        for t in trajectories
        for talk in t.as_sampled()
        for fitted in _fit_rows(codec, talk, max_length, truncation)
    )
    for task_id, fitted in fitted_rows:
        if fitted.rows is None:
            too_long.append((task_id, fitted.length))
            continue
        report._note_cut(task_id, "conversation", fitted)
        (row,) = fitted.rows
        if not row.trained:
            report.dropped += 1
            continue
        if train_on == "all":
            row = TokenRow(row.ids, [True] * len(row.ids))
        # Nothing comes before the first token, so nothing predicts it.
        row.mask[0] = False
        report._add(row)
        rows.append(row)
    refuse_long(too_long, max_length)
    report.rows = len(rows)
    if not rows:
        raise DataError(f"no conversation to train on ({report.dropped} without a trained turn)")
    return rows, report


def encode_pairs(
    codec: Codec,
    pairs: Iterable[PreferencePair],
    *,
    max_length: int,
    truncation: str = "refuse",
) -> tuple[list[TokenPair], TokenReport]:
    """Tokenise both sides of every pair for DPO; only turns marked for training count.

    Args:
        codec: Tokenises and marks.
        pairs: The pairs.
        max_length: Longest side in tokens, prompt included.
        truncation: "refuse" or "cut", see `TrainSettings.truncation`; sides are cut one by one.

    Raises:
        DataError: No pair is left, or a side is too long and `truncation` is "refuse".
    """
    report = TokenReport()
    rows: list[TokenPair] = []
    too_long: list[tuple[str, int]] = []
    for place, pair in enumerate(pairs):
        prompt = len(pair.prompt) if pair.history == FULL else None
        sides = [
            _fit_side(codec, conversations, max_length, truncation, prompt=prompt)
            for conversations in pair.as_sampled()
        ]
        over = [(pair.task_id, side.length) for side in sides if side.rows is None]
        too_long += over
        if sides[0].rows is None or sides[1].rows is None:
            continue
        for name, side in zip(SIDES, sides, strict=True):
            report._note_cut(pair.task_id, name, side)
        chosen, rejected = ([row for row in side.rows or () if row.trained] for side in sides)
        if (pair.chosen and not chosen) or (pair.rejected and not rejected):
            report.dropped += 1
            continue
        if [row.ids for row in chosen] == [row.ids for row in rejected]:
            report.identical += 1
            continue
        for row in (*chosen, *rejected):
            report._add(row)
        none = TokenRow([], [])
        good, bad = (next(iter(side), none) for side in (chosen, rejected))
        rows.append(TokenPair(good, bad, tuple(chosen[1:]), tuple(rejected[1:]), source=place))
    refuse_long(too_long, max_length)
    report.rows = len(rows)
    if not rows:
        raise DataError(
            f"no pair to train on ({report.dropped} without a trained turn on both sides, "
            f"{report.identical} with identical sides)"
        )
    return rows, report


def fingerprint(rows: Sequence[TokenRow] | Sequence[TokenPair]) -> str:
    """Return a hash of every id and mark, in order."""
    digest = hashlib.sha256()
    for item in rows:
        if isinstance(item, TokenPair) and not all(item.sides):
            digest.update(b"chosen:" if item.sides[0] else b"rejected:")
        for row in (item,) if isinstance(item, TokenRow) else itertools.chain(*item.sides):
            digest.update(f"{len(row.ids)}:{row.ids}:".encode())
            digest.update(bytes(row.mask))
    return digest.hexdigest()


class _Fitted(NamedTuple):
    """Rows, of which some may train nothing; or None where one is too long and may not be cut.

    `length`, `turns` and `lost_turns` are those before cutting; for rows that are refused, `length`
    is that of the longest.
    """

    rows: list[TokenRow] | None
    length: int
    turns: int
    lost_turns: int


def _fit(
    codec: Codec,
    messages: Sequence[Message],
    max_length: int,
    truncation: str,
    *,
    prompt: int = 0,
) -> _Fitted:
    """Tokenise a conversation, and cut turns after its first `prompt` messages, if need be."""
    turns = [i + 1 for i, m in enumerate(messages) if m.role == "assistant" and i >= prompt]

    def encode(end: int) -> TokenRow:
        encoded = codec.encode(messages[:end])
        return TokenRow(list(encoded.input_ids), list(encoded.train_mask))

    # What follows the last turn trains nothing.
    row = encode(turns[-1]) if turns else TokenRow([], [])
    length = len(row.ids)
    if length <= max_length:
        return _Fitted([row], length, len(turns), 0)
    if truncation == "refuse":
        return _Fitted(None, length, len(turns), 0)
    kept = _most_that_fits(len(turns) - 1, lambda n: len(encode(turns[n - 1]).ids) <= max_length)
    row = encode(turns[kept - 1]) if kept else TokenRow([], [])
    return _Fitted([row], length, len(turns), len(turns) - kept)


def _fit_rows(
    codec: Codec,
    messages: Sequence[Message],
    max_length: int,
    truncation: str,
    *,
    prompt: int = 0,
) -> list[_Fitted]:
    """Tokenise a conversation as one row, or, where its template rewrites history, as several.

    Then each reply that is trained has a row of its own, after the prompt that was read for it.
    """
    try:
        return [_fit(codec, messages, max_length, truncation, prompt=prompt)]
    except RewrittenHistoryError:
        plain = [Message(m.role, m.content) for m in messages]
        return [
            _fit(codec, [*plain[:place], message], max_length, truncation, prompt=place)
            for place, message in enumerate(messages)
            if message.train
        ]


def _first_trained(messages: Sequence[Message]) -> int:
    return next((i for i, message in enumerate(messages) if message.train), 0)


def _fit_side(
    codec: Codec,
    conversations: Sequence[Sequence[Message]],
    max_length: int,
    truncation: str,
    *,
    prompt: int | None,
) -> _Fitted:
    """Tokenise the conversations of one side; after a turn that is cut, none is kept.

    `prompt` is the number of messages that both sides share; None: look for the first trained one.
    """
    parts = []
    for messages in conversations:
        before = _first_trained(messages) if prompt is None else prompt
        parts += _fit_rows(codec, messages, max_length, truncation, prompt=before)
    turns = sum(part.turns for part in parts)
    if any(part.rows is None for part in parts):
        return _Fitted(None, max(part.length for part in parts), turns, 0)
    rows: list[TokenRow] = []
    kept = 0
    for part in parts:
        rows += part.rows or []
        kept += part.turns - part.lost_turns
        if part.lost_turns:
            break
    return _Fitted(rows, sum(part.length for part in parts), turns, turns - kept)


def _most_that_fits(most: int, fits: Callable[[int], bool]) -> int:
    """Return the largest n in 0..most for which `fits(n)`; 0 always fits, longer fits less."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low


def refuse_long(too_long: Sequence[tuple[str, int]], max_length: int) -> None:
    """Raise `DataError` where conversations, named with their length, are too long."""
    if too_long:
        task_id, longest = max(too_long, key=lambda item: item[1])
        raise DataError(
            f"{len(too_long)} conversations are longer than max_length={max_length} tokens; the "
            f"longest, task {task_id!r}, has {longest}. Raise max_length, or set truncation='cut' "
            "to remove whole turns from their ends."
        )
