"""Text to index terms, exactly as Anserini's English analyzer over Lucene 8.

Tokenizer, possessive filter, lower case, stop words, Porter stemmer, in this order. Nothing folds
accents.
"""

from __future__ import annotations

from eto_gym.envs.webshop.search.stemmer import stem
from eto_gym.envs.webshop.search.tokenizer import tokenize

STOP_WORDS = frozenset(
    """
    a an and are as at be but by for if in into is it no not of on or such that the their then
    there these they this to was will with
    """.split()  # noqa: SIM905
)
"""The 33 words that Lucene's English analyzers leave out."""

_CACHE_SIZE = 1 << 17
_terms: dict[str, str] = {}


def analyze(text: str) -> list[str]:
    """Return the index terms of `text` in order, repeats kept.

    Example:
        >>> analyze("The women's running-shoes, 6.76 oz")
        ['women', 'run', 'shoe', '6.76', 'oz']
    """
    return [term for token in tokenize(text) if (term := term_of(token))]


def term_of(token: str) -> str:
    """Return the index term of a token, or "" for a stop word."""
    term = _terms.get(token)
    if term is None:
        if len(_terms) >= _CACHE_SIZE:
            _terms.clear()
        term = _terms[token] = _term_of(token)
    return term


def _term_of(token: str) -> str:
    if token[-2:-1] in {"'", "\u2019", "\uff07"} and token[-1] in "sS":
        token = token[:-2]
    word = token.lower() if token.isascii() else "".join(map(_lower, token))
    return "" if word in STOP_WORDS else stem(word)


def _lower(character: str) -> str:
    """Lower one character on its own: no final sigma, and a dotted capital I becomes i."""
    return character.lower()[0]
