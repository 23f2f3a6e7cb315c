"""Token trees: what several conversations share at their beginnings is computed once.

The two sides of a pair begin with the same prompt, and often with the same turns; the pairs of one
environment share its instruction. A tree holds every such beginning once, in one row of tokens:

    [prompt, chosen side][rejected side]

Positions restart where a side leaves the others, and a side attends to its own beginning and to
itself, never to another side. So every token has exactly the state that it has in a row of its own,
and there is no padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from eto_gym.trainers.data.encoding import TokenRow


@dataclass(frozen=True, slots=True)
class Segment:
    """The tokens from `start` to `stop` of a tree's row, which continue those of `spans`.

    Attributes:
        start: Place of the first token of its own.
        stop: Place after its last token.
        spans: Places of the tokens before it, as intervals, in order.
        depth: How many tokens come before it.
    """

    start: int
    stop: int
    spans: tuple[tuple[int, int], ...]
    depth: int


@dataclass(eq=False, slots=True)
class TokenTree:
    """How the tokens of one row attend to each other.

    Attributes:
        segments: One for each conversation that adds tokens; together they cover the row.
        windows: Sliding windows that attention layers asked for so far.
    """

    segments: tuple[Segment, ...]
    windows: set[int] = field(default_factory=set)
    _masks: dict[Any, torch.Tensor] = field(default_factory=dict)

    def own(self, states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the queries, keys or values of each segment's own tokens, out of those of all.

        Shapes: (1, heads, T, width) -> (1, heads, S, width) for each segment, and all S make T.
        """
        lengths = [segment.stop - segment.start for segment in self.segments]
        parts: tuple[torch.Tensor, ...] = torch.split(states, lengths, dim=2)
        return parts

    def reach(self, states: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the keys or values that the tokens of each segment may attend to.

        All are taken from two divisions of the whole: the gradient of a slice would be as large as
        the whole, for every slice.
        """
        places = {place for segment in self.segments for span in segment.spans for place in span}
        cuts = sorted(places | {0, self.segments[-1].stop})
        lengths = [stop - start for start, stop in pairwise(cuts)]
        parts = dict(zip(cuts, torch.split(states, lengths, dim=2), strict=False))
        for segment, own in zip(self.segments, self.own(states), strict=True):
            before = [parts[c] for span in segment.spans for c in cuts if span[0] <= c < span[1]]
            yield torch.cat([*before, own], dim=2) if before else own

    def mask(self, segment: Segment, window: int | None, like: torch.Tensor) -> torch.Tensor:
        """Return what is added to the attention scores of a segment; the layers share it."""
        key = (segment.start, window, like.dtype, like.device)
        if key not in self._masks:
            # S tokens of its own (queries) and D before them: what is added is (1, 1, S, D + S).
            places = torch.arange(segment.depth + segment.stop - segment.start, device=like.device)
            distance = places[segment.depth :, None] - places
            hidden = distance < 0
            if window is not None:
                hidden |= distance >= window
            mask = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
            self._masks[key] = mask.masked_fill_(hidden, -torch.inf)[None, None]
        return self._masks[key]


def build_tree(rows: Sequence[TokenRow]) -> dict[str, Any]:
    """Return the tree of some rows, as a batch of one row without padding.

    Returns:
        "input_ids" and "position_ids", one row each; "tree"; and of every trained token, counted
        once where rows share it: "states", the place whose state predicts it, and "targets", the
        token. "entries" and "sides" name, for every trained token of every row, its place among
        these and the row. "trained" has the number of trained tokens of each row, "tokens" the
        number of all tokens of all rows, the shared ones counted in each.
    """
    ids = [np.asarray(row.ids, dtype=np.int64) for row in rows]
    paths: list[np.ndarray[Any, np.dtype[np.int64]]] = []
    segments: list[Segment] = []
    total = 0
    for index, own in enumerate(ids):
        shared, path = 0, np.empty(0, dtype=np.int64)
        for other in range(index):
            common = common_length(own, ids[other])
            if common > shared:
                shared, path = common, paths[other][:common]
        start, total = total, total + len(own) - shared
        if total > start:
            segments.append(Segment(start, total, _spans(path), shared))
        paths.append(np.concatenate([path, np.arange(start, total)]))

    # Of each of the tree's T places: token, position, and the place before it on its path; (T,).
    tokens = np.empty(total, dtype=np.int64)
    positions = np.empty(total, dtype=np.int64)
    before = np.zeros(total, dtype=np.int64)
    trained = []
    for own, path, row in zip(ids, paths, rows, strict=True):
        tokens[path] = own
        positions[path] = np.arange(len(path))
        before[path[1:]] = path[:-1]
        # Nothing comes before the first token, so nothing predicts it.
        trained.append(path[1:][np.asarray(row.mask[1:], dtype=bool)])
    # N trained tokens over all rows, of which U are distinct: places (U,), entries (N,) into them.
    places, entries = np.unique(np.concatenate(trained), return_inverse=True)
    counts = [len(places) for places in trained]
    return {
        "input_ids": torch.from_numpy(tokens)[None],
        "position_ids": torch.from_numpy(positions)[None],
        "tree": TokenTree(tuple(segments)),
        "states": torch.from_numpy(before[places]),
        "targets": torch.from_numpy(tokens[places]),
        "entries": torch.from_numpy(entries),
        "sides": torch.from_numpy(np.repeat(np.arange(len(rows)), counts)),
        "trained": torch.tensor(counts),
        "tokens": torch.tensor(sum(len(own) for own in ids)),
    }


def score_tree(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Return the summed log-probability of the trained tokens of every row of a tree.

    A batch may have "weights", one for every trained token of every row.
    """
    logps, _ = score_tokens(model, batch)
    # (N,) -> (B,): a token that several rows share counts in each of them.
    if "weights" in batch:
        logps = logps * batch["weights"].to(logps.device)
    return logps.new_zeros(len(batch["trained"])).index_add(0, batch["sides"], logps)


def score_tokens(model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the log-probability of every trained token of every row, row by row: (N,).

    And the values before their turns, of a model with a value head, where the batch has their
    "starts" (see `starts_of_turns`).
    """
    outputs = _scores(model, batch)
    return outputs["token_logps"][batch["entries"]], outputs.get("values")


def score_entropies(model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-probabilities as `score_tokens` does, and the entropies that they had: (N,)."""
    outputs = _scores(model, batch, entropies=True)
    return outputs["token_logps"][batch["entries"]], outputs["token_entropies"][batch["entries"]]


def _scores(model: Any, batch: dict[str, Any], **options: Any) -> dict[str, torch.Tensor]:
    """Return what the model says of a tree, once for each of its U distinct trained tokens."""
    ids = batch["input_ids"]
    starts = (batch["starts"],) if "starts" in batch else ()
    outputs: dict[str, torch.Tensor] = model(
        input_ids=ids,
        position_ids=batch["position_ids"],
        # A mask with four dimensions counts as prepared: the library makes no square one. Whoever
        # uses it spoils the result, which the check of the model finds.
        attention_mask=torch.full((1, 1, 1, 1), torch.nan, device=ids.device),
        token_tree=batch["tree"],
        score=(batch["states"], batch["targets"], *starts),
        **options,
    )
    return outputs


def starts_of_turns(rows: Sequence[TokenRow], tree: dict[str, Any]) -> torch.Tensor:
    """Return the places whose states predict the first tokens of turns, row by row.

    A run of trained tokens is a turn.

    Args:
        rows: The rows of the tree.
        tree: What `build_tree` made of them.
    """
    first = [not before for row in rows for before, kept in pairwise(row.mask) if kept]
    starts: torch.Tensor = tree["states"][tree["entries"][torch.tensor(first, dtype=torch.bool)]]
    return starts


def common_length(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> int:
    """Return how many tokens two sequences share at their beginnings."""
    length = min(len(first), len(second))
    differ = np.flatnonzero(first[:length] != second[:length])
    return int(differ[0]) if len(differ) else length


def _spans(path: np.ndarray[Any, Any]) -> tuple[tuple[int, int], ...]:
    """Return places as intervals of neighbours."""
    if not len(path):
        return ()
    ends = np.flatnonzero(np.diff(path) != 1) + 1
    return tuple((int(run[0]), int(run[-1]) + 1) for run in np.split(path, ends))
