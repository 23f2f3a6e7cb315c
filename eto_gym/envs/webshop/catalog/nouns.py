"""Extraction of the nouns of product names, on which the reward's title score rests.

The original tags names with spaCy at run time; here a named tagger does it once, when a catalog is
built. Rewards depend on the tagger, so its name is part of every catalog and card.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from eto_gym.errors import MissingDependencyError, UnknownNameError, require

NOUN_TAGS = frozenset({"NOUN", "PROPN"})
"""Universal part-of-speech tags that count as nouns."""

RULES = "rules"
"""Name of the built-in tagger."""

GIVEN = "given"
"""Name of the "tagger" of records that carry their nouns in a field `nouns`."""


class Token(Protocol):
    """What a tagger says of a word."""

    @property
    def text(self) -> str:
        """The word."""

    @property
    def pos_(self) -> str:
        """Its universal part-of-speech tag."""


TaggerFunction = Callable[[str], Iterable[Any]]
"""Text -> tokens (objects like `Token`)."""


class Tagger:
    """Finds the nouns of texts.

    Attributes:
        name: What manifests and cards record.
    """

    def __init__(self, name: str, pipe: Callable[[Iterable[str]], Iterable[Iterable[Any]]]) -> None:
        """Wrap a function from texts to their tokens."""
        self.name = name
        self._pipe = pipe

    def nouns(self, texts: Iterable[str]) -> Iterator[tuple[str, ...]]:
        """Yield the lower-cased nouns of each text in order, repeats kept."""
        for tokens in self._pipe(texts):
            yield tuple(token.text.lower() for token in tokens if token.pos_ in NOUN_TAGS)


def make_tagger(tagger: str | TaggerFunction) -> Tagger:
    """Return the tagger of this name, or one that wraps a callable.

    Args:
        tagger: "rules" for the built-in tagger; "spacy:MODEL" for an installed spaCy model, such as
            "spacy:en_core_web_sm" (the original) or "spacy:en_core_web_lg" (ETO's copy of it); or a
            callable from a text to tokens with `.text` and `.pos_`, recorded by its qualified name.

    Raises:
        UnknownNameError: There is no such tagger.
        MissingDependencyError: spaCy, or the model, is not installed.
    """
    if callable(tagger):
        function = tagger
        module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
        return Tagger(f"{module}.{name or type(function).__name__}", lambda t: map(function, t))
    if tagger == RULES:
        return Tagger(RULES, lambda texts: map(tag, texts))
    if tagger.startswith("spacy:"):
        return _spacy_tagger(tagger)
    raise UnknownNameError(f"expected tagger 'rules' or 'spacy:MODEL', got {tagger!r}")


def _spacy_tagger(name: str) -> Tagger:
    spacy = require("spacy", feature=f"the tagger {name!r}", extra="webshop-build")
    model = name.removeprefix("spacy:")
    try:
        # The excluded parts read the tagger's features but do not change the tags.
        nlp = spacy.load(model, exclude=["parser", "ner", "lemmatizer"])
    except OSError as err:
        raise MissingDependencyError(
            f"the tagger {name!r} needs the spaCy model {model!r}. "
            f"Install it with: python -m spacy download {model}"
        ) from err
    version = nlp.meta.get("version", "?")
    return Tagger(f"{name}-{version}", lambda texts: nlp.pipe(texts, batch_size=256))


# --- the built-in tagger ------------------------------------------------------------------------

_WORD = re.compile(r"[^\W_]+(?:['’.&-][^\W_]+)*")
_OTHER = frozenset(
    """
    a an the this that these those and or nor but if so than as of for to in on at by with from
    into onto over under up down off out about after before between per via without within
    is are was were be been being am do does did has have had will would can could should may
    might must not no yes i you he she we they it me him her us them my your his our their its
    who what which when where how why all any both each every few more most other some such only
    own same very too just also please
    """.split()  # noqa: SIM905
)
_ADJECTIVES = frozenset(
    """
    big black blue brown casual classic clear cold comfortable compatible dark dry
    easy extra fashionable fine firm flat foldable free fresh full gold good gray great green
    grey happy hard heavy high hot large light little long loose low modern natural navy new
    nice non old orange organic outdoor pink plain plus portable premium pure purple quick rare
    raw red rich round royal rustic short silver simple slim small smart smooth soft solid
    special square strong sturdy sweet tall thick thin tiny ultra universal vintage warm white
    wide wild wireless yellow young
    """.split()  # noqa: SIM905
)
_ADJECTIVE_ENDS = ("able", "ible", "ful", "less", "ous", "ive", "ish", "ic", "proof", "ly", "est")
_VERB_ENDS = ("ing", "ed")


class _Word:
    __slots__ = ("pos_", "text")

    def __init__(self, text: str, pos: str) -> None:
        self.text = text
        self.pos_ = pos


def tag(text: str) -> list[_Word]:
    """Tag the words of a product name by word lists and endings.

    Names are mostly nouns, so a word is a noun unless it is a number, a function word, a common
    adjective, or ends like an adjective, adverb or participle.

    Example:
        >>> [word.text for word in tag("Soft Women's Dress, 2 Pockets") if word.pos_ == "NOUN"]
        ["Women's", 'Dress', 'Pockets']
    """
    return [_Word(word, _part_of_speech(word)) for word in _WORD.findall(text)]


def _part_of_speech(word: str) -> str:
    lower = word.lower()
    if any(character.isdigit() for character in word):
        return "NUM"
    if lower in _OTHER or len(lower) == 1:
        return "X"
    if lower in _ADJECTIVES or (len(lower) > 5 and lower.endswith(_ADJECTIVE_ENDS)):
        return "ADJ"
    if len(lower) > 5 and lower.endswith(_VERB_ENDS):
        return "VERB"
    return "NOUN"
