"""How much of a conversation the agent reads when it replies: all of it, or a bounded part.

Three settings, the same for play and for training:

- "full": the whole conversation, as in the paper.
- "last:K": what precedes the first observation, the first observation (which tells the task), and
  the last K exchanges of a reply and what came of it.
- "state", or "state:K": the same with K exchanges (2 by default), and after the last observation a
  block that the environment writes: where the agent is, what it holds, what was found where. Where
  the block tells all of the first observation, that is not read a second time.

With "-thoughts" after any of them ("full-thoughts", "last:4-thoughts"), earlier replies are read
without their reasoning blocks (see `eto_gym.reasoning`), as the templates of many reasoning models
have it.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from eto_gym.errors import EtoGymError
from eto_gym.prompt import Message, without_reason
from eto_gym.reasoning import split_reasoning

FULL = "full"
"""The whole conversation, as in the paper."""

OMISSION = "\n\n(What happened between this and what follows is left out.)"
"""Ends the task's message where exchanges after it are left out."""

STATE_VERSION = 2
"""Version of the text of state blocks: recorded with settings, and raised when it changes."""

WHOLE = "All so far:"
"""Begins a state block that tells all of the first observation too, the task included."""

TOLD_BELOW = "(The task and the earlier steps are told below.)"
"""Stands for the first observation where exchanges are left out and such a block tells it."""

_STATE_EXCHANGES = 2

_NO_THOUGHTS = "-thoughts"

_LEAST_TOKENS = 3  # of an exchange: a word and its end, and a word of what came of it


class Exchange(NamedTuple):
    """One step as the agent saw it: its bare action (None: it gave none), and what came of it."""

    action: str | None
    observation: str


class Recap(ABC):
    """What an episode has told so far: it writes the state block, and each step is told to it once.

    It is started with the first observation and knows only what it is told after that, so that it
    cannot tell what is hidden; a turn costs what is new, however long the episode is.

    Example:
        >>> class Rooms(Recap):
        ...     def __init__(self, first):
        ...         super().__init__(first)
        ...         self.seen = [first]
        ...
        ...     def _update(self, action, observation):
        ...         self.seen.append(observation)
        ...
        ...     def _write(self):
        ...         return "Seen: " + ", ".join(self.seen)
        >>> rooms = Rooms("hall")
        >>> rooms.block()
        ''
        >>> rooms.add(Exchange("go on", "kitchen"))
        >>> rooms.block()
        'Seen: hall, kitchen'
    """

    def __init__(self, first: str) -> None:
        """Start with the first observation."""
        self._begun = False

    def add(self, exchange: Exchange) -> None:
        """Take in the next exchange."""
        self._begun = True
        if exchange.action is not None:
            self._update(exchange.action, without_reason(exchange.observation))

    def block(self) -> str:
        """Write the state block as of now; "" before any exchange."""
        return self._write() if self._begun else ""

    @abstractmethod
    def _update(self, action: str, observation: str) -> None:
        """Take in an action and what came of it; a reply without an action tells nothing."""

    @abstractmethod
    def _write(self) -> str:
        """Write the block, and change nothing of what is known."""


StateWriter: TypeAlias = Callable[[str], Recap]
"""Starts the recap of an episode from its first observation.

It is a class or a function of a module, so that it can be sent to other processes.
"""


class _Nothing(Recap):
    def _update(self, action: str, observation: str) -> None:
        pass

    def _write(self) -> str:
        return ""


def no_state(first: str) -> Recap:
    """Start a recap that writes no block: the state is then the task and the last exchanges."""
    return _Nothing(first)


class StateBlocks:
    """The state blocks of one episode: one for each observation that is to be answered."""

    def __init__(self, writer: StateWriter) -> None:
        """Hold no block until `begin`."""
        self._start = writer
        self._recap = no_state("")
        self._blocks: list[str] = []

    def __len__(self) -> int:
        """Count the blocks, empty ones included."""
        return len(self._blocks)

    @property
    def last(self) -> str:
        """The block that was written last."""
        return self._blocks[-1]

    def begin(self, first: str) -> None:
        """Start an episode with its first observation."""
        self._recap = self._start(first)
        self._blocks = [self._recap.block()]

    def add(self, exchange: Exchange, *, answered: bool = True) -> None:
        """Take in an exchange; write a block where its observation is to be answered."""
        self._recap.add(exchange)
        if answered:
            self._blocks.append(self._recap.block())

    def rebuild(self, first: str, exchanges: Sequence[Exchange], *, answered: bool = True) -> None:
        """Write all blocks anew, of an episode that was played elsewhere or was changed.

        Args:
            first: The first observation.
            exchanges: All steps.
            answered: Whether the observation of the last step is to be answered too.
        """
        self.begin(first)
        for number, exchange in enumerate(exchanges, start=1):
            self.add(exchange, answered=answered or number < len(exchanges))

    def clear(self) -> None:
        """Forget the episode."""
        self._recap = no_state("")
        self._blocks = []

    def read(self, replies: int) -> tuple[str, ...]:
        """Return the blocks that the first replies were given to; empty if none was written."""
        blocks = tuple(self._blocks[:replies])
        return blocks if any(blocks) else ()


def check_history(history: str) -> str:
    """Return a history setting if it is one.

    Raises:
        EtoGymError: It is not "full", "last:K", "state" or "state:K", with K of 1 or more, nor one
            of these and "-thoughts".
    """
    _exchanges(history)
    return history


def exchanges_of(history: str) -> int | None:
    """Return how many exchanges a history setting leaves; None where it leaves all.

    Raises:
        EtoGymError: It is no setting.
    """
    return _exchanges(history)


def check_room(
    history: str, context: int | None, *, before: int = 0, exchange: int = _LEAST_TOKENS
) -> str:
    """Return a history setting if its exchanges, however short, leave room for a reply.

    Args:
        history: The setting.
        context: Longest conversation in tokens; None where it is not known.
        before: Tokens of what is read before the exchanges.
        exchange: Tokens of the shortest exchange.

    Raises:
        EtoGymError: It is no setting, or so many exchanges cannot be read together.

    Example:
        >>> check_room("last:4", 4096)
        'last:4'
    """
    count = _exchanges(history)
    if count is None or context is None or before + count * exchange < context:
        return history
    most = (context - before - 1) // exchange
    told = f"after the {before:,} of the prompt, " if before else ""
    raise EtoGymError(
        f"history {history!r} leaves no room for a reply: {told}{count:,} exchanges take "
        f"{exchange} tokens each at the very least, and a conversation may have {context:,}. "
        + (f"Take a K of {most:,} or, with words in them, far less" if most > 0 else "")
        + ("" if most > 0 else "Give it a longer context (--max-context)")
    )


def _words(message: Message) -> Message:
    """Return a reply without its reasoning; any other message as it is."""
    if message.role != "assistant":
        return message
    reply = split_reasoning(message.content)
    if not reply.reasoning:
        return message
    return Message(message.role, reply.spoken.lstrip("\n"), message.train)


def _exchanges(history: str) -> int | None:
    """Return how many exchanges a setting leaves; None for all."""
    asked, history = history, history.removesuffix(_NO_THOUGHTS)
    if history == FULL:
        return None
    if history == "state":
        return _STATE_EXCHANGES
    kind, _, count = history.partition(":")
    if kind not in ("last", "state") or not re.fullmatch("[1-9][0-9]{0,8}", count):
        raise EtoGymError(
            "expected history 'full', 'last:K' or 'state' ('state:K'), with K of 1 or more, got "
            f"{asked!r}"
        )
    return int(count)


def bounded(
    messages: Sequence[Message], head: int, history: str, state: str = ""
) -> tuple[Message, ...]:
    """Return the messages that the agent reads of a conversation that ends with an observation.

    Args:
        messages: The conversation: the head, the first observation, then a reply and an observation
            for every step.
        head: Messages that precede the first observation.
        history: The setting.
        state: The state block as of now, which ends the last message; "" for none.

    Example:
        >>> talk = [Message("user", "task")]
        >>> for turn in "abc":
        ...     talk += [Message("assistant", turn), Message("user", turn.upper())]
        >>> [m.content for m in bounded(talk, 0, "last:1")][1:]
        ['c', 'C']
    """
    exchanges = _exchanges(history)
    start = head + 1
    if exchanges is None or len(messages) - start <= 2 * exchanges:
        read = list(messages)
    else:
        task = messages[head]
        words = TOLD_BELOW if state.startswith(WHOLE) else task.content + OMISSION
        shortened = Message(task.role, words, task.train)
        read = [*messages[:head], shortened, *messages[-2 * exchanges :]]
    if history.endswith(_NO_THOUGHTS):
        read = [*read[:head], *map(_words, read[head:])]
    if state:
        last = read[-1]
        read[-1] = Message(last.role, f"{last.content}\n\n{state}", last.train)
    return tuple(read)


def as_sampled(
    messages: Sequence[Message],
    head: int,
    history: str,
    states: Sequence[str] = (),
    *,
    start: int | None = None,
) -> list[tuple[Message, ...]]:
    """Return the conversations in which an episode's replies were sampled, to train on them.

    A reply stands after the messages that were read for it. Where these go on from the conversation
    of the reply before, both are in one; with "full" all are. Each reply is marked for training
    once, if it was, and what follows the last reply is left out.

    Args:
        messages: The whole conversation.
        head: Messages that precede the first observation.
        history: How much of it each reply was given to.
        states: The state block that was read for each reply; empty where there was none.
        start: Place of the first reply that is wanted; None for the first after the head.

    Example:
        >>> talk = [Message("user", "task")]
        >>> for turn in "abc":
        ...     talk += [Message("assistant", turn, train=True), Message("user", turn.upper())]
        >>> rows = as_sampled(talk, 0, "last:1")
        >>> [[m.content[:4] for m in row if m.train or m.role == "user"] for row in rows]
        [['task', 'a', 'A', 'b'], ['task', 'B', 'c']]
    """
    found: list[tuple[Message, ...]] = []
    first = head + 1 if start is None else start
    for turn, place in enumerate(range(first, len(messages), 2)):
        state = states[turn] if states else ""
        before = bounded(messages[:place], head, history, state)
        known = len(found[-1]) if found else 0
        if found and _texts(before[:known]) == _texts(found[-1]):
            found[-1] = (*found[-1], *before[known:], messages[place])
        else:
            found.append((*(Message(m.role, m.content) for m in before), messages[place]))
    return found


def _texts(messages: Sequence[Message]) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in messages]
