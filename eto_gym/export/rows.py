"""Rows in which a trainer that knows no environments trains on the agent's words alone.

TRL's trainers mask the prompt and train on all that follows, and so do others. A continuation of
several turns would be trained on with the environment's answers in it. Hence every row ends with
one reply of the agent, and all that was said before is its prompt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from eto_gym.prompt import Message
from eto_gym.trajectories import PreferencePair, Trajectory

_SHAREGPT = {"user": "human", "assistant": "gpt"}


def preference_rows(pairs: Iterable[PreferencePair], left: Counter[str]) -> list[dict[str, Any]]:
    """Return a row of TRL's preference form for each pair: the first reply in which it parts.

    Up to there both sides heard and said the same, so both replies answer one prompt. What comes
    later has no counterpart on the other side.

    Args:
        pairs: The pairs.
        left: Counts what makes no row, by reason.
    """
    rows = []
    for pair in pairs:
        sides = [[*_replies(side)] for side in pair.as_sampled()]
        row = None
        for (seen, chosen), (also_seen, rejected) in zip(*sides, strict=False):
            if [(m.role, m.content) for m in seen] != [(m.role, m.content) for m in also_seen]:
                break
            if chosen.content != rejected.content:
                row = {
                    "id": pair.task_id,
                    "prompt": _turns(seen),
                    "chosen": _turns([chosen]),
                    "rejected": _turns([rejected]),
                }
                break
        if row is None:
            left["pairs whose sides never part in a reply"] += 1
        else:
            rows.append(row)
    return rows


def reply_rows(episodes: Iterable[Trajectory]) -> list[dict[str, Any]]:
    """Return a row of TRL's prompt-completion form for each reply that is trained on."""
    return [
        {"id": episode.task_id, "prompt": _turns(prompt), "completion": _turns([reply])}
        for episode in episodes
        for prompt, reply in _replies(episode.as_sampled())
    ]


def sharegpt_turns(messages: Sequence[Message], name: str) -> dict[str, Any]:
    """Return a conversation as ShareGPT has it; a system message becomes the key `system`.

    A reply that is not to be trained on has `"weight": 0`, as axolotl reads it.
    """
    system = [message.content for message in messages if message.role == "system"]
    turns = [
        {
            "from": _SHAREGPT[m.role],
            "value": m.content,
            **({"weight": 0} if m.role == "assistant" and not m.train else {}),
        }
        for m in messages
        if m.role != "system"
    ]
    return {
        "id": name,
        **({"system": "\n\n".join(system)} if system else {}),
        "conversations": turns,
    }


def sharegpt_pair(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of `preference_rows` as LLaMA-Factory's ranked form."""
    prompt = [Message(turn["role"], turn["content"]) for turn in row["prompt"]]
    sides = {
        side: {"from": "gpt", "value": row[side][0]["content"]} for side in ("chosen", "rejected")
    }
    turns = sharegpt_turns(prompt, row["id"])
    for turn in turns["conversations"]:
        turn.pop("weight", None)
    return {**turns, **sides}


def _replies(
    conversations: Iterable[Sequence[Message]],
) -> Iterable[tuple[tuple[Message, ...], Message]]:
    """Yield each reply that is trained on, after what it was given to."""
    for conversation in conversations:
        for place, message in enumerate(conversation):
            if message.role == "assistant" and message.train:
                yield tuple(conversation[:place]), message


def _turns(messages: Iterable[Message]) -> list[dict[str, str]]:
    return [{"role": m.role, "content": m.content} for m in messages]
