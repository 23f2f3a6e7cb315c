"""Reading a language model's reply: the thought, and the action to be played."""

from __future__ import annotations

import re
from collections.abc import Iterator

from eto_gym.expert import Reply
from eto_gym.reasoning import split_reasoning

PARSER_VERSION = 1
"""Version of `parse_reply`: recorded with scores, and raised when a reply is read differently."""

# Labels are looked for by their word, and the decoration before one (markdown, quotes, list marks)
# is read backwards from it: a pattern that began with the decoration would start anew at every mark
# of a long run.
_BLANK = "".join(filter(str.isspace, map(chr, range(0x3001))))
_DECORATION = _BLANK + ">*_#`-\"'"
_MARKS = r"[\s>*_#`\-\"']*"
_COLON = r"[:\uff1a]"  # the second is full-width, as Chinese and Japanese text has it
_LABEL = re.compile(rf"action[*_`\s]*{_COLON}", re.IGNORECASE)
_INLINE_LABEL = re.compile(rf"\baction[*_`]*\s?{_COLON}", re.IGNORECASE)
_THOUGHT = re.compile(rf"{_MARKS}thought[*_`\s]*{_COLON}[*_ ]*", re.IGNORECASE)
_ANY_LABEL = re.compile(rf"{_MARKS}(?:thought|observation|action)\b[*_`\s]*{_COLON}", re.IGNORECASE)
_WRAPPERS = (*((mark, mark) for mark in ("`", '"', "'", "**", "*", "_")), ("“", "”"), ("‘", "’"))


def parse_reply(text: str) -> Reply | None:
    r"""Read the thought and the first action of a reply; None when it holds no action.

    The action is what follows the first `Action:` that starts a line, else the first that stands
    inside one; if nothing follows it on its line, the next line that is not empty. Case, markdown,
    quotes, code marks and a final full stop around it do not matter; a full-width colon is a colon.
    The time is linear in the length of the text, whatever it holds. Everything after the action
    is ignored, and so is all that stands in a reasoning block (see `eto_gym.reasoning`), one that
    never closes included.

    Example:
        >>> parse_reply("Thought: I need light.\n**Action:** `use desklamp 1`.")
        Reply(thought='I need light.', action='use desklamp 1')
        >>> parse_reply("I would go to the desk.") is None
        True
        >>> parse_reply("<think>Action: look</think>Action: go to desk 1").action
        'go to desk 1'
    """
    text = split_reasoning(text).spoken
    for labels in (_line_labels, _inline_labels):
        done = 0
        for start, end in labels(text):
            if start < done:  # inside the line of a label that held nothing
                continue
            done = _line_end(text, end)
            action = _clean(text[end:done]) or _next_line(text, done)
            if action:
                return Reply(_thought(text[:start]), action)
    return None


def _line_labels(text: str) -> Iterator[tuple[int, int]]:
    """Yield where the labels that start a line begin, with their decoration, and end.

    The decoration may reach over several lines.
    """
    previous = 0
    for match in _LABEL.finditer(text):
        before = text[previous : match.start()]
        run = previous + len(before.rstrip(_DECORATION))
        start = 0 if run == 0 else text.find("\n", run, match.start()) + 1
        if start or run == 0:
            yield start, match.end()
        previous = match.end()


def _inline_labels(text: str) -> Iterator[tuple[int, int]]:
    return (match.span() for match in _INLINE_LABEL.finditer(text))


def _line_end(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end


def _next_line(text: str, position: int) -> str:
    """Return the action on the first line after `position` that says something."""
    in_fence = False
    while position < len(text):
        end = _line_end(text, position)
        line = text[position:end].strip()
        position = end + 1
        if line.startswith("```") and not in_fence:
            in_fence = True
        elif line:
            return "" if _ANY_LABEL.match(line) else _clean(line)
    return ""


def _clean(text: str) -> str:
    """Take off white space, matching quotes and marks, and one full stop."""
    text = text.strip().removeprefix("**").strip()
    start, end, before = 0, len(text), -1
    while before != end - start:
        before = end - start
        if text.endswith(".", start, end) and not text.endswith("..", start, end):
            start, end = _strip(text, start, end - 1)
        for opening, closing in _WRAPPERS:
            longer = end - start > len(opening) + len(closing)
            opens = text.startswith(opening, start, end)
            if longer and opens and text.endswith(closing, start, end):
                start, end = _strip(text, start + len(opening), end - len(closing))
    action = text[start:end]
    return action if action.strip("`*_\"'.") else ""


def _strip(text: str, start: int, end: int) -> tuple[int, int]:
    """Move the bounds inwards over white space."""
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end


def _thought(text: str) -> str:
    text = text.strip()
    label = _THOUGHT.match(text)
    return text[label.end() :].strip() if label else text
