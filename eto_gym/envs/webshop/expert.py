"""A scripted shopper that works from the pages and the instruction alone."""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from eto_gym.envs.webshop.pages import BACK, BUY, PREV, SEPARATOR, SUB_PAGES, parse_action
from eto_gym.expert import Reply

# It begins at a comma or at the first of some blanks: begun at each, a long run would be read anew.
_PRICE_LIMIT = re.compile(
    r"(?:,|(?<!\s))\s*(?:and )?(?:the )?price (?:lower|less|cheaper) than "
    r"\$?(\d[\d,]*(?:\.\d+)?)(?: dollars)?",
    re.IGNORECASE,
)
# How a request begins: "please help me find", "i'm looking for".
_REQUEST = re.compile(
    r"(?:(?:hi|hello|please|i|i'm|im|i'd|id|am|we|can|could|you|would|like|want|need|help|me|to|"
    r"find|get|buy|give|show|look|looking|search|searching|interested|in|for)\b[\s,]*)+(?=\w)",
    re.IGNORECASE,
)
_PRICE = re.compile(r"\$(\d+(?:\.\d+)?)")
# Words of instructions that say nothing about the product.
_FILLER_WORDS = (
    "a also am an and are as at be buy by can capacity choose color come comes could do does find "
    "flavor for from get has have having help i i'd i'm i've im in interested is it length like "
    "look looking made me must my name need needs not of on one ones only or our pick please "
    "scent should show size smells so sold some something style than that the there these this "
    "those to under value version want wanted wants we what which with would you"
)
_FILLER = frozenset(_FILLER_WORDS.split())
_NO_BRACKETS = str.maketrans("[]", "  ")  # an action cannot carry them
_READ_PAGES = ("features", "description")
_NO_OPTIONS = {BACK.lower(), PREV.lower(), BUY.lower(), *SUB_PAGES}

PAPER_STEPS = 10
"""Steps that an episode allows in the paper."""

OPENING_THOUGHTS = (
    "The instruction asks for this: {wish}. I search with its telling words.",
    "I have to find {wish}. The search bar is the place to start.",
    "First I look for products that match this: {wish}.",
)
RESULT_THOUGHTS = (
    "{asin} fits best among these: {title}, at {price}. I open it.",
    "Of the products listed, {asin} ({title}) comes closest, and {price} is all right.",
    "I take a closer look at {asin}: {title}.",
)
DEAR_THOUGHTS = (
    "{asin} ({title}) comes closest among these, although {price} is more than I was to spend.",
    "Nothing here fits better than {asin}: {title}. I look at it in spite of its price, {price}.",
)
READ_THOUGHTS = (
    "The page does not mention {missing} yet, so I read the {page}.",
    "I still have to check {missing}. The {page} may tell.",
)
BACK_THOUGHTS = (
    "I have read that. Back to the product.",
    "Now I know more, and go back to the product's page.",
)
OPTION_THOUGHTS = (
    "I am to choose {value}, and it is offered here.",
    "The instruction names {value}, so I select it.",
)
RETURN_THOUGHTS = (
    "{missing} is not to be found on this product. I go back to the results.",
    "This one lacks {missing}, so I return to the other products.",
)
BUY_THOUGHTS = (
    "Everything that can be chosen is chosen. I buy it.",
    "The product fits and the options are set, so I buy it now.",
)
REOPEN_THOUGHTS = ("The earlier product {asin} was the better one, so I open it again.",)


@dataclass(slots=True)
class _Item:
    """What the shopper knows of one product of the results page."""

    rank: int
    asin: str
    title: str
    price: str
    words: set[str] = field(default_factory=set)
    opened: bool = False
    read: list[str] = field(default_factory=list)

    def learn(self, text: str) -> set[str]:
        """Add what a text tells; return its words."""
        words = set(map(_stem, _tokens(text)))
        self.words |= words
        return words


class WebShopExpert:
    """Searches, opens what fits, reads on where a wish is unconfirmed, chooses options and buys.

    It sees the text observations alone. It takes the instruction's first clause for the thing and
    its properties, and every later clause for an option to choose. It opens the product that
    promises most, reads its features and description as long as a property is unconfirmed, leaves
    it for another that promises more, and keeps enough steps to choose the options and buy.
    Thoughts are templates; which wording is taken depends on the instruction alone, so that an
    episode is the same on every run. Where others have begun the episode, it starts with a search
    of its own, unless too few steps are left for more than what the page offers. Told of all that
    they did (`observe`), it says at each step how it would go on from there (`advise`).
    """

    def __init__(
        self, *, budget: int = PAPER_STEPS, elapsed: Callable[[], int] | None = None
    ) -> None:
        """Create the shopper for one episode.

        Args:
            budget: Steps that the episode allows.
            elapsed: Tells how many steps the episode has seen; without it those count that were
                observed.
        """
        self._budget = budget
        self._elapsed = elapsed
        self._observed = 0
        self._instruction: str | None = None
        self._segments: list[str] = []  # the page that is shown
        self._action: str | None = None
        self._queries: set[str] = set()
        self._wish = ""
        self._query = ""
        self._properties: list[str] = []
        self._options: list[list[str]] = []
        self._limit: float | None = None
        self._items: dict[str, _Item] = {}  # by what is clicked to open them
        self._kind: set[str] = set()
        self._current: _Item | None = None
        self._pressed: list[str] = []
        self._rng = random.Random(0)

    def act(self, observation: str, info: dict[str, Any]) -> Reply | None:
        """Return the next reply, or None after the purchase or where there is nothing to buy."""
        self.observe(self._action, observation)
        reply = self.advise()
        self._action = reply.action if reply else None
        return reply

    def observe(self, action: str | None, observation: str) -> None:
        """Take in an observation and the action that led to it.

        No action led to the first one, nor to what answers a reply that has none: the page stays.
        """
        if self._segments:
            self._observed += 1
            if action is None:
                return
            self._take(*parse_action(action))
        self._segments = segments = observation.split(SEPARATOR)
        if not _is_page(segments):
            return
        if self._instruction is None:
            self._read(segments[2] if segments[0] == "WebShop" else segments[1])
        if segments[0] == "WebShop":
            return
        if segments[3].startswith("Page "):
            self._list_items(segments[4:])
            return
        if self._current is None and segments[-1] == BUY:  # somebody else opened it
            self._current = _Item(0, "", _title(segments[4:]), "", opened=True)
        if self._current is not None:
            self._current.learn(" ".join(segments[4:]))

    def advise(self) -> Reply | None:
        """Say what to do now, without taking it as done; None as for `act`."""
        segments = self._segments
        if not _is_page(segments):
            return None
        # To search, to open and to buy takes three steps.
        may_search = self._query not in self._queries and self._steps_left() >= 3
        if may_search and (not self._queries or segments[0] == "WebShop"):
            return self._search()
        if segments[0] == "WebShop":
            return None  # the search found nothing to buy, or it is too late for one
        if segments[3].startswith("Page "):
            return self._search() if may_search and self._found_nothing() else self._at_results()
        if segments[-1] == BUY:
            return self._at_item(segments[4:])
        return self._say(BACK_THOUGHTS, "click[< prev]")

    def _take(self, name: str, argument: str | None) -> None:
        """Note what an action does on the page where it is taken; most words do nothing."""
        segments, target = self._segments, (argument or "").lower()
        if not target or not _is_page(segments):
            return
        if name == "search":
            self._queries.add(target)
            self._current = None
        elif name != "click" or target not in map(str.lower, segments):
            return
        elif segments[-1] != BUY:
            if segments[3].startswith("Page ") and target in self._items:
                self._current = self._items[target]
                self._current.opened = True
                self._pressed = []
        elif self._current is not None:
            if target in _READ_PAGES:
                if target not in self._current.read:
                    self._current.read.append(target)
            elif target not in _NO_OPTIONS and target not in self._pressed:
                self._pressed.append(target)

    def _read(self, instruction: str) -> None:
        self._instruction = instruction
        found = _PRICE_LIMIT.search(instruction)
        self._limit = float(found.group(1).replace(",", "")) if found else None
        self._wish = _PRICE_LIMIT.sub("", instruction).strip(" .!?")
        self._query = " ".join(_content(self._wish.translate(_NO_BRACKETS))) or "anything"
        self._rng = random.Random(zlib.crc32(instruction.encode("utf-8", "surrogatepass")))
        thing, *clauses = self._wish.split(",")
        self._properties = _content(thing)
        named = ([w for w in _content(clause) if w != "long"] for clause in clauses)
        self._options = [words for words in named if words]

    def _steps_left(self) -> int:
        return self._budget - (self._elapsed() if self._elapsed else self._observed)

    # --- pages -----------------------------------------------------------------------------------

    def _search(self) -> Reply:
        wish = _REQUEST.sub("", self._wish, count=1) if _REQUEST.match(self._wish) else self._wish
        return self._say(OPENING_THOUGHTS, f"search[{self._query}]", wish=wish)

    def _found_nothing(self) -> bool:
        """Whether no product of the results names a word of the thing that is wanted."""
        wanted = set(map(_stem, self._properties))
        return not any(item.words & wanted for item in self._items.values())

    def _at_results(self) -> Reply | None:
        if not self._items:
            return None
        best = max(self._items.values(), key=self._promise)
        thoughts: Sequence[str] = DEAR_THOUGHTS if self._too_dear(best) else RESULT_THOUGHTS
        if best.opened:
            thoughts = REOPEN_THOUGHTS
        action = f"click[{best.asin.lower()}]"
        return self._say(thoughts, action, asin=best.asin, title=best.title, price=best.price)

    def _list_items(self, segments: list[str]) -> None:
        """Read a page of results; what is known already of a product on it is kept."""
        listed = segments[segments.index("Next >") + 1 :] if "Next >" in segments else []
        found = {listed[place].lower(): place for place in range(0, len(listed) - 2, 3)}
        if list(found) == list(self._items):
            return
        known, self._items, self._kind = self._items, {}, set()
        titles = []
        for rank, (code, place) in enumerate(found.items()):
            asin, title, price = listed[place : place + 3]
            item = self._items[code] = known.get(code) or _Item(rank, asin, title, price)
            item.rank = rank
            titles.append(item.learn(title))
        # Wanted words that most titles hold name the thing itself; the others, its properties.
        for word in map(_stem, self._properties):
            if sum(word in title for title in titles) >= 0.6 * len(titles):
                self._kind.add(word)

    def _at_item(self, segments: list[str]) -> Reply:
        item = self._current
        assert item is not None  # `observe` has seen this page
        chosen = self._wanted_values(segments, item)
        todo = [value for value in chosen if value.lower() not in self._pressed]
        unsure = self._missing(item)
        # Going away and coming back, or to another product, takes two steps.
        can_leave = self._steps_left() - max(len(todo), len(self._options)) - 1 >= 2
        if can_leave and not self._pressed:
            rivals = [other for other in self._items.values() if other is not item]
            if max(map(self._promise, rivals), default=-9.0) > self._promise(item):
                lack = " ".join(unsure) or "a fitting price"
                return self._say(RETURN_THOUGHTS, "click[< prev]", missing=lack)
            unread = [page for page in _READ_PAGES if page not in item.read]
            if unread and any(_stem(w) not in item.words for w in self._properties):
                told = " ".join(w for w in self._properties if _stem(w) not in item.words)
                action = f"click[{unread[0]}]"
                return self._say(READ_THOUGHTS, action, missing=told, page=unread[0])
        if todo and self._steps_left() >= 2:
            return self._say(OPTION_THOUGHTS, f"click[{todo[0]}]", value=todo[0])
        return self._say(BUY_THOUGHTS, "click[buy now]")

    # --- judgement -------------------------------------------------------------------------------

    def _promise(self, item: _Item) -> float:
        """Guess how much of the wish a product meets, in parts of the reward.

        A property has about two words. What is not told yet may still come: the search reads more
        than titles, so the more, the higher the product's rank. The chances were tuned by hand on
        training goals of the built-in catalog.
        """
        if not item.opened:
            more, offered = 0.75 - 0.1 * item.rank, 0.9 - 0.1 * item.rank
        else:
            more, offered = (0.8, 0.4, 0.0)[len(item.read)], 0.0
        told = [_stem(word) in item.words for word in self._properties]
        score = sum(0.5 if known else 0.5 * more for known in told)
        for words in self._options:
            score += 1.0 if all(_stem(word) in item.words for word in words) else offered
        score -= 2.0 * len(self._kind - item.words)
        return score - (1.0 if self._too_dear(item) else 0.0)

    def _too_dear(self, item: _Item) -> bool:
        prices = [float(price) for price in _PRICE.findall(item.price)]
        return bool(prices) and self._limit is not None and sum(prices) / len(prices) > self._limit

    def _missing(self, item: _Item) -> list[str]:
        words = [*self._properties, *(word for option in self._options for word in option)]
        return [word for word in words if _stem(word) not in item.words]

    def _wanted_values(self, segments: list[str], item: _Item) -> list[str]:
        """Return the option values of the page that the instruction names."""
        end = segments.index(item.title) if item.title in segments else 0
        wish = _tokens(self._wish)
        named = [
            value
            for value in dict.fromkeys(segments[:end])
            if _content(value)
            and _contains(wish, _tokens(value))
            and parse_action(f"click[{value}]") == ("click", value)  # else no action reaches it
        ]
        # A value whose words are part of another's ("twin" of "twin xl") is not what was named.
        return [
            value
            for value in named
            if not any(value != o and _contains(_tokens(o), _tokens(value)) for o in named)
        ]

    def _say(self, thoughts: Sequence[str], action: str, **facts: str) -> Reply:
        return Reply(self._rng.choice(thoughts).format(**facts), action)


def _is_page(segments: Sequence[str]) -> bool:
    """Whether it is a page on which something can be done."""
    return len(segments) >= 4 and not segments[0].startswith("Thank you for shopping")


def _title(segments: Sequence[str]) -> str:
    """Return the title on a product's page, which stands before the price."""
    at = next((i for i, text in enumerate(segments) if text.startswith("Price: ")), 0)
    return segments[at - 1] if at else ""


def _tokens(text: str) -> list[str]:
    return [word for raw in text.lower().split() if (word := raw.strip(".,;:!?()[]'\"*"))]


def _content(text: str) -> list[str]:
    return list(dict.fromkeys(word for word in _tokens(text) if word not in _FILLER))


def _stem(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") else word


def _contains(words: Sequence[str], part: Iterable[str]) -> bool:
    wanted = list(part)
    size = len(wanted)
    return any(list(words[i : i + size]) == wanted for i in range(len(words) - size + 1))
