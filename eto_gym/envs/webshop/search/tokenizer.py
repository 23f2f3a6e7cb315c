"""Word segmentation exactly as Lucene 8's StandardTokenizer does it.

That tokenizer follows the word-break rules of Unicode 9.0 (UAX #29) with its own choices where the
standard leaves them open: Han and Hiragana characters are tokens of their own, runs of South East
Asian letters stay together, emoji sequences (as of Emoji 11.0) are tokens, and a token holds at
most 255 UTF-16 units. Everything else between the words is dropped.

Almost all text of a shop is ASCII, which one regular expression segments. Any other word goes
through `_longest`, which walks the rules as a finite automaton.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from functools import cache
from importlib.resources import files
from itertools import accumulate

MAX_TOKEN = 255
"""Longest token in UTF-16 units: the size of Lucene's scan buffer."""

_ASCII_WORD = re.compile(
    r"[A-Za-z0-9_]+"
    r"(?:(?:(?<=[A-Za-z])[.:'](?=[A-Za-z])|(?<=[0-9])[.,;'](?=[0-9]))[A-Za-z0-9_]+)*"
)
# White space is never part of a token, so the words around a non-ASCII character can be cut out.
# The ASCII characters before it are passed over once per word, and not again from each of them.
_FOREIGN_WORD = re.compile(r"(?<![^ \t\r\n])[^ \t\r\n\x80-\U0010ffff]*+[^\x00-\x7f][^ \t\r\n]*")


def tokenize(text: str) -> list[str]:
    """Return the tokens of `text` in order.

    Example:
        >>> tokenize("O'Neil: 6.76-oz/日本 mug ☕")
        ["O'Neil", '6.76', 'oz', '日', '本', 'mug', '☕']
    """
    if text.isascii():
        return _ascii_tokens(text)
    tokens: list[str] = []
    done = 0
    for match in _FOREIGN_WORD.finditer(text):
        tokens += _ascii_tokens(text[done : match.start()])
        tokens += _scan(match.group())
        done = match.end()
    tokens += _ascii_tokens(text[done:])
    return tokens


def _ascii_tokens(text: str) -> list[str]:
    tokens: list[str] = _ASCII_WORD.findall(text)
    if "_" in text or max(map(len, tokens), default=0) > MAX_TOKEN:
        return _scan(text)
    return tokens


def _scan(text: str) -> list[str]:
    """Tokenize by taking the longest match at each position, or dropping one character."""
    scan = _Scan(text)
    tokens = []
    start = 0
    while start < len(text):
        end = scan.longest(start)
        if end > start:
            tokens.append(text[start:end])
        start = max(end, start + 1)
    return tokens


_OVERSHOOT = 8
"""Characters that may be looked at in vain, behind the end of a token, without taking a note."""


class _Scan:
    """Finds the tokens of one text from left to right, in time linear in its length.

    The automaton may look at up to `MAX_TOKEN` units behind a token's end, or where there is none,
    before that is certain. What it passes there in vain is noted, so that a later token's search
    jumps over it where it comes to the same state at the same place.
    """

    def __init__(self, text: str) -> None:
        self._classes = [_classes(ord(character)) for character in text]
        # How many UTF-16 units stand before each character, and in all.
        self._units = [0, *accumulate(1 + (character > "\uffff") for character in text)]
        # (place, state) -> a later place and the state there, with no token's end on the way.
        self._vain: dict[tuple[int, _State], tuple[int, _State | None]] = {}

    def longest(self, start: int) -> int:
        """Return where the longest token that begins at `start` ends; `start` if none does.

        Args:
            start: Not before that of the last call.
        """
        classes, units, vain = self._classes, self._units, self._vain
        limit = units[start] + MAX_TOKEN
        state: _State | None = _start()
        at = best = start
        passed: list[tuple[int, _State]] = []  # since the best end
        while state is not None and at < len(classes):
            jump = vain.get((at, state)) if vain else None
            passed.append((at, state))
            if jump is not None:  # never beyond the limit, which only grows
                at, state = jump
            elif units[at + 1] > limit:
                break
            else:
                state = state.after(classes[at])
                at += 1
                if state is not None and state.accepting:
                    best = at
                    passed.clear()
        if len(passed) > _OVERSHOOT or vain:
            # The place where the search stopped is still to be passed.
            vain.update((place, (at, state)) for place in passed if place[0] < at)
        return best


# --- classes of characters ----------------------------------------------------------------------


@cache
def _ranges() -> tuple[list[int], list[int], list[str]]:
    first, last, letters = [], [], []
    for line in (files(__package__) / "word_break.txt").read_text("utf-8").splitlines():
        if not line.startswith("#"):
            low, high, names = line.split()
            first.append(int(low, 16))
            last.append(int(high, 16))
            letters.append(names)
    return first, last, letters


def _classes(code: int) -> str:
    """Return the letters of the classes that a character belongs to (see word_break.txt)."""
    first, last, letters = _ranges()
    at = bisect_right(first, code) - 1
    return letters[at] if at >= 0 and code <= last[at] else ""


# --- the rules as an automaton ------------------------------------------------------------------
#
# A rule is written as a regular expression over class letters. `_Nfa` holds its states: for each
# one the edges (class letter or "" for a free move, target). States of the deterministic automaton
# are made when they are first reached.

_EX = "X*"
_LETTERS = f"A{_EX}((U{_EX})*A{_EX}|L{_EX}A{_EX})*"
_NUMBERS = f"N{_EX}((U{_EX})*N{_EX}|M{_EX}N{_EX})*"
_KATAKANA = f"K{_EX}((U{_EX})*K{_EX})*"
_HEBREW = f"H{_EX}(Q{_EX}|D{_EX}H{_EX})"
_PART = f"({_KATAKANA}|({_HEBREW}|{_NUMBERS}|{_LETTERS})({_HEBREW}|{_NUMBERS}|{_LETTERS})*)"
_WORD = f"(U{_EX})*{_PART}(U{_EX}(U{_EX})*{_PART})*(U{_EX})*"
_EMOJI = "(Z*EW*P?|(Z*BW*)?OW*)"
_RULES = (
    _WORD,
    f"{_EMOJI}((Z{_EMOJI})*|SS*T)",
    "GW*P?YW*",
    f"F{_EX}F{_EX}",
    f"C{_EX}(C{_EX})*",
    f"I{_EX}",
    f"R{_EX}",
)


class _Nfa:
    """All rules side by side, built by Thompson's construction."""

    def __init__(self) -> None:
        self.edges: list[list[tuple[str, int]]] = []
        self.start = self._state()
        self.final = self._state()
        for rule in _RULES:
            self._rule, self._at = rule, 0
            first, last = self._choice()
            self._join(self.start, first)
            self._join(last, self.final)

    def _state(self) -> int:
        self.edges.append([])
        return len(self.edges) - 1

    def _join(self, source: int, target: int) -> None:
        self.edges[source].append(("", target))

    def _next(self) -> str:
        return self._rule[self._at] if self._at < len(self._rule) else ""

    def _choice(self) -> tuple[int, int]:
        first, last = self._state(), self._state()
        while True:
            head, tail = self._sequence()
            self._join(first, head)
            self._join(tail, last)
            if self._next() != "|":
                return first, last
            self._at += 1

    def _sequence(self) -> tuple[int, int]:
        first = last = self._state()
        while self._next() not in {"", "|", ")"}:
            head, tail = self._item()
            self._join(last, head)
            last = tail
        return first, last

    def _item(self) -> tuple[int, int]:
        if self._next() == "(":
            self._at += 1
            first, last = self._choice()
        else:
            first, last = self._state(), self._state()
            self.edges[first].append((self._next(), last))
        self._at += 1
        if self._next() in {"*", "?"}:
            outer, end = self._state(), self._state()
            self._join(outer, first)
            self._join(outer, end)
            self._join(last, end)
            if self._next() == "*":
                self._join(last, first)
            self._at += 1
            return outer, end
        return first, last

    def closure(self, states: set[int]) -> frozenset[int]:
        """Add every state that free moves reach."""
        reached, todo = set(states), list(states)
        while todo:
            for letter, target in self.edges[todo.pop()]:
                if not letter and target not in reached:
                    reached.add(target)
                    todo.append(target)
        return frozenset(reached)


class _State:
    """A state of the deterministic automaton."""

    __slots__ = ("_after", "_members", "accepting")

    def __init__(self, members: frozenset[int]) -> None:
        self._members = members
        self._after: dict[str, _State | None] = {}
        self.accepting = _nfa().final in members

    def after(self, classes: str) -> _State | None:
        """Return the state that a character of these classes leads to; None for no state."""
        if classes not in self._after:
            edges = _nfa().edges
            moved = {
                target
                for member in self._members
                for letter, target in edges[member]
                if letter and letter in classes
            }
            self._after[classes] = _state(_nfa().closure(moved)) if moved else None
        return self._after[classes]


@cache
def _nfa() -> _Nfa:
    return _Nfa()


@cache
def _state(members: frozenset[int]) -> _State:
    return _State(members)


@cache
def _start() -> _State:
    return _state(_nfa().closure({_nfa().start}))
