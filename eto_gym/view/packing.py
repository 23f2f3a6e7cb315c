"""Episodes and pairs as the viewer's page holds them: an index of columns, and chunks of bodies.

The index is read when the page opens. A body, what was said in one episode, lies with its
neighbours in a chunk, which the page decodes when one of them is shown.
"""

from __future__ import annotations

import base64
import gzip
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from eto_gym.conversation import parse_reply
from eto_gym.errors import DataError
from eto_gym.files import strict_json
from eto_gym.prompt import Message
from eto_gym.trajectories import Step, Trajectory
from eto_gym.trajectories.formats import SampleNumbers, read_pair, read_trajectory
from eto_gym.trajectories.pairs import PreferencePair
from eto_gym.view.reading import Unread, records
from eto_gym.view.sources import Source

CHUNK = 1 << 20
"""Characters of JSON after which a chunk ends."""

_GOAL = re.compile(r"(?:task is to:?|Instruction:(?: \[SEP\])?|Task Description:)\s*(.+)", re.I)
_GOAL_LENGTH = 200


class Table:
    """Rows as columns, with each distinct value of a named column written once."""

    def __init__(self, *names: str, shared: Iterable[str] = ()) -> None:
        """Name the columns, and those whose values are few."""
        self.columns: dict[str, list[Any]] = {name: [] for name in names}
        self.values: dict[str, dict[Any, int]] = {name: {} for name in shared}

    def add(self, row: dict[str, Any]) -> None:
        """Append a row."""
        for name, column in self.columns.items():
            value = row[name]
            if name in self.values:
                known = self.values[name]
                value = known.setdefault(value, len(known))
            column.append(value)

    def to_json(self) -> dict[str, Any]:
        """Return columns and the values that some of them number."""
        return {
            "columns": self.columns,
            "values": {name: list(known) for name, known in self.values.items()},
        }


class Packer:
    """Takes sources one by one; yields chunks, and has the index at the end."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.episodes = Table(
            *("source", "task", "type", "policy", "sample", "success", "outcome", "error"),
            *("reward", "steps", "tokens", "bad", "cut", "inadmissible", "repeated", "goal"),
            shared=("source", "type", "policy", "outcome", "error"),
        )
        self.pairs = Table("source", "task", "chosen", "rejected", "divergence", shared=("source",))
        self.unread: dict[Source, Unread] = {}
        """What could not be read, of each source that has such records."""
        self.starts: dict[str, list[int]] = {"episodes": [], "pairs": []}
        """First row of every chunk."""

    def pack(self, sources: Iterable[Source]) -> Iterator[tuple[str, str]]:
        """Yield the name and the encoded text of each chunk."""
        ordered = list(sources)
        for kind in ("episodes", "pairs"):
            yield from self._chunks(kind, (s for s in ordered if s.kind == kind))

    def _chunks(self, kind: str, sources: Iterable[Source]) -> Iterator[tuple[str, str]]:
        starts = self.starts[kind]
        chunk: list[str] = []
        heads: dict[str, int] = {}
        size = 0
        for row, body in enumerate(self._bodies(kind, sources)):
            if not chunk:
                starts.append(row)
            head = json.dumps(body["head"])
            if head not in heads:
                size += len(head)
            body["head"] = heads.setdefault(head, len(heads))
            chunk.append(strict_json(body))
            size += len(chunk[-1])
            if size >= CHUNK:
                yield f"{kind}-{len(starts) - 1}", _chunk_text(heads, chunk)
                chunk, heads, size = [], {}, 0
        if chunk:
            yield f"{kind}-{len(starts) - 1}", _chunk_text(heads, chunk)

    def _bodies(self, kind: str, sources: Iterable[Source]) -> Iterator[dict[str, Any]]:
        for source in sources:
            unread: Unread = []
            numbered = SampleNumbers()
            for number, record in records(source.path, unread):
                try:
                    if kind == "episodes":
                        row, body = _episode(numbered(record, read_trajectory(record)))
                    else:
                        row, body = _pair(read_pair(record))
                except (DataError, RecursionError) as err:
                    unread.append((number, str(err)))
                    continue
                (self.episodes if kind == "episodes" else self.pairs).add(
                    {**row, "source": source.name}
                )
                yield body
            if unread:
                self.unread[source] = sorted(unread)

    def index(self) -> dict[str, Any]:
        """Return what the page knows before it opens a chunk."""
        return {
            "episodes": self.episodes.to_json(),
            "pairs": self.pairs.to_json(),
            "starts": self.starts,
            "skipped": {source.name: len(unread) for source, unread in self.unread.items()},
        }


def encode(value: Any) -> str:
    """Return a value as strict JSON, compressed, in letters that mean nothing to HTML."""
    return encode_text(strict_json(value))


def encode_text(text: str) -> str:
    """Return text compressed, in letters that mean nothing to HTML."""
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode("ascii")


def _chunk_text(heads: dict[str, int], bodies: list[str]) -> str:
    return encode_text(f'{{"heads":[{",".join(heads)}],"bodies":[{",".join(bodies)}]}}')


# --- one episode ---------------------------------------------------------------------------------


def _episode(t: Trajectory) -> tuple[dict[str, Any], dict[str, Any]]:
    start = t.start
    actions = [step.action for step in t.steps]
    facts = t.facts
    row = {
        "task": t.task_id,
        "type": t.task_type,
        "policy": t.policy,
        "sample": t.sample,
        "success": int(t.success),
        "outcome": t.outcome,
        "error": t.error or "",
        "reward": _finite(t.reward),
        "steps": len(t.steps),
        "tokens": t.usage.get("decoded_tokens"),
        "bad": actions.count(None),
        "cut": sum(item.get("finish") == "length" for item in facts),
        "inadmissible": sum(item.get("admissible") is False for item in facts),
        "repeated": sum(a is not None and a == b for a, b in itertools.pairwise(actions)),
        "goal": _goal(t.messages, start),
    }
    body = {
        "head": [[m.role, m.content] for m in t.messages[:start]],
        "turns": list(_turns(t.messages[start:], t.steps)),
        "rewards": [_finite(step.reward) for step in t.steps],
        "facts": facts,
        "end": t.steps[-1].observation if t.steps else "",
        "env": t.env,
        "usage": t.usage,
        "seed": t.seed,
    }
    return row, body


def _goal(messages: tuple[Message, ...], start: int) -> str:
    text = messages[start].content if start < len(messages) else ""
    match = _GOAL.search(text)
    return (match.group(1) if match else text)[:_GOAL_LENGTH]


def _turns(messages: Sequence[Message], steps: Sequence[Step] = ()) -> Iterator[list[Any]]:
    """Yield role, text, whether it is trained on, and of a reply its thought and action.

    The text of a reply that says no more than that is None: files get smaller.
    """
    replies = sum(m.role == "assistant" for m in messages)
    played = iter([*[None] * (replies - len(steps)), *steps])
    for m in messages:
        if m.role != "assistant":
            yield [m.role, m.content, int(m.train)]
            continue
        reply, step = parse_reply(m.content), next(played, None)
        thought = reply.thought if reply is not None else None
        action = step.action if step is not None else reply.action if reply is not None else None
        plain = f"Thought: {thought}\nAction: {action}" == m.content
        yield [m.role, None if plain else m.content, int(m.train), thought, action]


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None


# --- one pair ------------------------------------------------------------------------------------


def _pair(pair: PreferencePair) -> tuple[dict[str, Any], dict[str, Any]]:
    sides = {"chosen": list(_turns(pair.chosen)), "rejected": list(_turns(pair.rejected))}
    actions = [
        [turn[4] if turn[4] is not None else turn[1] for turn in side if turn[0] == "assistant"]
        for side in sides.values()
    ]
    same = 0
    while same < min(map(len, actions)) and actions[0][same] == actions[1][same]:
        same += 1
    row = {
        "task": pair.task_id,
        "chosen": len(actions[0]),
        "rejected": len(actions[1]),
        "divergence": same,
    }
    return row, {"head": [[m.role, m.content] for m in pair.prompt], **sides}
