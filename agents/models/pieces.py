"""Tokens of a piece of a conversation, as they are in its middle."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from eto_gym.errors import EtoGymError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PieceTokenizer:
    """Tokenises pieces of text so that their tokens, in a row, are those of one conversation.

    Tokenizers in SentencePiece's manner put a space before the first word of whatever they are
    given, which must not happen in the middle of a conversation: there a piece is tokenised after
    an anchor, whose tokens are taken off again.

    Attributes:
        special: Matches what spells a special token.

    Example:
        >>> from eto_gym.agents.models.tiny import train_tokenizer
        >>> tokens = PieceTokenizer(train_tokenizer(["go north"], vocab_size=300))
        >>> tokens.decode(tokens.encode("go") + tokens.encode(" north"))
        'go north'
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Find out whether the tokenizer adds a space.

        Args:
            tokenizer: A tokenizer of transformers.
        """
        self._tokenizer = tokenizer
        specials = sorted(
            (tok.content for tok in tokenizer.added_tokens_decoder.values() if tok.special),
            key=len,
            reverse=True,
        )
        self.special = re.compile("|".join(map(re.escape, specials)) or r"(?!)")
        first: str = tokenizer.convert_ids_to_tokens(self._raw("a"))[0]
        # The space of SentencePiece, of GPT-2.
        self._anchor = "\n" if first[0] in "\u2581\u0120" else ""

    def encode(self, text: str, *, plain: bool = False, after: str | None = None) -> list[int]:
        """Tokenise a piece as it is tokenised in the middle of a conversation.

        Args:
            text: The piece.
            plain: Read no special tokens in it.
            after: The special token before the piece, which may swallow white space after it; ""
                where the piece is the beginning; None where other text comes before it.

        Raises:
            EtoGymError: The tokenizer makes one token of parts of both.
        """
        anchor = self._anchor if after is None else after
        if not text or not anchor:
            return self._raw(text, plain=plain) if text else []
        before = self._raw(anchor)
        ids = self._raw(anchor + text, plain=plain)
        if ids[: len(before)] != before:
            raise EtoGymError(f"the tokenizer merges {anchor!r} with {text[:20]!r}")
        return ids[len(before) :]

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Return the text of tokens in the middle of a conversation.

        Args:
            ids: The tokens.
            special: Spell special tokens, which are left out otherwise.
        """
        anchor = self._raw(self._anchor) if self._anchor else []
        text = self._tokenizer.decode(
            anchor + list(ids), skip_special_tokens=not special, clean_up_tokenization_spaces=False
        )
        return str(text)[len(self._anchor) :]

    def _raw(self, text: str, *, plain: bool = False) -> list[int]:
        ids: list[int] = self._tokenizer.encode(
            text, add_special_tokens=False, split_special_tokens=plain
        )
        return ids
