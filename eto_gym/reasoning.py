"""Reasoning blocks: what a reasoning model writes before its reply, told apart from the reply.

A block belongs to the model's drafting: an action in it was considered, not taken. Models mark
blocks in their families' own ways; where the chat template opens the block, a reply holds only the
closing mark.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# Opening and closing marks: Qwen3, DeepSeek-R1, SmolLM3 and most others; Magistral; Kimi; Seed-OSS;
# and the channels of gpt-oss, where the special tokens are kept in the text.
_MARKS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<seed:think>", "</seed:think>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
_OPENING = re.compile("|".join(re.escape(opening) for opening, _ in _MARKS))
_CLOSING = re.compile("|".join(re.escape(closing) for _, closing in _MARKS))


_CLOSES = dict(_MARKS)


class SplitReply(NamedTuple):
    """A reply in its parts.

    Attributes:
        reasoning: The reasoning blocks with their marks, and all that stands before the last mark
            that closes one; "" where there is none.
        spoken: What the agent says outside of them.
        cut: Whether the last block never closes: the reply ended while the model still reasoned.
    """

    reasoning: str
    spoken: str
    cut: bool


def split_reasoning(text: str) -> SplitReply:
    """Tell a reply's reasoning from what it says, in time linear in its length.

    All up to the last closing mark is reasoning, whether or not the block's opening is there. After
    it, an opening mark begins a block that never closes.

    Example:
        >>> split_reasoning("<think>Action: look</think>Action: go north")
        SplitReply(reasoning='<think>Action: look</think>', spoken='Action: go north', cut=False)
        >>> split_reasoning("<think>Perhaps Action: look").cut
        True
    """
    start = 0
    for mark in _CLOSING.finditer(text):
        start = mark.end()
    opening = _OPENING.search(text, start)
    if opening is None:
        return SplitReply(text[:start], text[start:], cut=False)
    end = opening.start()
    return SplitReply(text[:start] + text[end:], text[start:end], cut=True)


def open_block(text: str) -> str:
    r"""Return the end of a text from the mark on whose block never closes; "" where all close.

    Example:
        >>> open_block("<|Assistant|><think>\n")
        '<think>\n'
    """
    start = max((mark.end() for mark in _CLOSING.finditer(text)), default=0)
    opening = _OPENING.search(text, start)
    return text[opening.start() :] if opening else ""


def closed_by(block: str) -> str:
    """Return the mark that closes the block which a text opens."""
    opening = _OPENING.match(block)
    return _CLOSES[opening.group()] if opening else ""


def closed_blocks(text: str) -> int:
    """Return how many blocks a text closes."""
    return sum(1 for _ in _CLOSING.finditer(text))
