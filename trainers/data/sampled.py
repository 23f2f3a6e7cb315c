"""Rows of sampled tokens: an episode as the model read and wrote it, and nothing tokenised anew."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from eto_gym.errors import DataError
from eto_gym.trainers.data.encoding import (
    Codec,
    Loss,
    TokenReport,
    TokenRow,
    encode_trajectories,
    refuse_long,
)
from eto_gym.trajectories import Trajectory
from eto_gym.trajectories.sampled import unchain


@dataclass(slots=True)
class EpisodeRows:
    """An episode as tokens.

    Attributes:
        rows: One row for every reply, or for several where each prompt goes on from the reply
            before it; in the order of replies. Empty: not one reply is within `max_length`.
        turns: Replies that the rows hold: the first ones of the episode.
    """

    rows: list[TokenRow] = field(default_factory=list)
    turns: int = 0

    @property
    def tokens(self) -> int:
        """Number of tokens, those that rows share counted in each."""
        return sum(len(row.ids) for row in self.rows)

    @property
    def trained(self) -> list[int]:
        """The ids that were sampled, in order."""
        return [
            token
            for row in self.rows
            for token, mark in zip(row.ids, row.mask, strict=True)
            if mark
        ]


def rows_of(trajectory: Trajectory) -> EpisodeRows:
    """Return the rows of an episode whose tokens were recorded, whatever their length.

    A reply's prompt goes on from the reply before it, and both are in one row, or it does not (the
    history is bounded, the template rewrites, or a reply's words are spelled in other tokens when
    they are read again), and it begins a row of its own.

    Raises:
        DataError: The recorded tokens contradict each other.
    """
    found = EpisodeRows()
    links = trajectory.tokens
    for link, prompt in zip(links, unchain(links), strict=True):
        if not link.reply:
            continue
        if not prompt:
            raise DataError(f"{trajectory.task_id}: a reply was sampled after no prompt at all")
        known = found.rows[-1].ids if found.rows else None
        if known is not None and prompt[: len(known)] == known:
            row = found.rows[-1]
        else:
            row = TokenRow([], [])
            found.rows.append(row)
        more = prompt[len(row.ids) :]
        row.ids.extend([*more, *link.reply])
        row.mask.extend([False] * len(more) + [True] * len(link.reply))
        found.turns += 1
    return found


def encode_sampled(
    codec: Codec,
    trajectories: Iterable[Trajectory],
    *,
    max_length: int,
    truncation: str = "refuse",
) -> tuple[list[EpisodeRows], TokenReport]:
    """Return the rows of episodes for methods that learn from what was sampled.

    An episode whose tokens were not recorded is tokenised, as for SFT.

    Args:
        codec: Tokenises where it must.
        trajectories: The episodes.
        max_length: Longest row in tokens.
        truncation: "refuse", or "cut": replies after the first that ends beyond `max_length` are
            left out, and so is that one.

    Returns:
        One entry per episode, without rows where nothing is left; and what was cut.

    Raises:
        DataError: An episode is too long, and `truncation` is "refuse".
    """
    report = TokenReport()
    episodes: list[EpisodeRows] = []
    too_long: list[tuple[str, int]] = []
    for trajectory in trajectories:
        if any(link.reply for link in trajectory.tokens):
            whole = rows_of(trajectory)
            kept = _cut(trajectory, whole, max_length)
        else:
            whole = kept = _tokenised(codec, trajectory, max_length, truncation, report)
        longest = max((len(row.ids) for row in whole.rows), default=0)
        if longest > max_length and truncation == "refuse":
            too_long.append((trajectory.task_id, longest))
        if kept.turns < whole.turns:
            report.cut += 1
            report.cut_turns += whole.turns - kept.turns
            report.cut_tokens += whole.tokens - kept.tokens
            loss = Loss(trajectory.task_id, "conversation", whole.tokens, whole.turns, kept.turns)
            report.losses.append(loss)
        report.dropped += not kept.rows
        report.rows += bool(kept.rows)
        report.tokens += kept.tokens
        report.trained_tokens += len(kept.trained)
        report.longest = max(report.longest, *(len(row.ids) for row in kept.rows), 0)
        episodes.append(kept)
    refuse_long(too_long, max_length)
    return episodes, report


def _cut(trajectory: Trajectory, whole: EpisodeRows, max_length: int) -> EpisodeRows:
    """Return the rows up to the last reply before one that does not fit."""
    kept = EpisodeRows()
    links = [link for link in trajectory.tokens if link.reply]
    sizes = iter(len(link.reply) for link in links)
    for row in whole.rows:
        end = place = 0  # of the last reply that fits, and of what was looked at
        marks = row.mask
        while place < len(marks):
            place = marks.index(True, place)
            place += next(sizes)
            if place > max_length:
                break
            end = place
            kept.turns += 1
        if end:
            kept.rows.append(TokenRow(row.ids[:end], marks[:end]))
        if end < len(marks):
            break
    return kept


def _tokenised(
    codec: Codec, trajectory: Trajectory, max_length: int, truncation: str, report: TokenReport
) -> EpisodeRows:
    if not any(message.train for message in trajectory.messages):
        return EpisodeRows()
    try:
        rows, data = encode_trajectories(
            codec, [trajectory], max_length=max_length, truncation=truncation
        )
    except DataError:  # not one turn is within max_length
        if truncation == "refuse":
            raise
        return EpisodeRows()
    for name in ("cut", "cut_turns", "cut_tokens"):
        setattr(report, name, getattr(report, name) + getattr(data, name))
    report.losses += data.losses
    return EpisodeRows(rows, sum(m.train for m in trajectory.messages) - data.cut_turns)
