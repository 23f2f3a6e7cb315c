"""Sampled tokens: what a model read and what it sampled, token by token, beside the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from eto_gym.errors import DataError
from eto_gym.trajectories.numbers import is_number


class SampledTokens(NamedTuple):
    """The tokens of one reply; those of an episode are a chain, see `chain_prompt`.

    Attributes:
        kept: How many first tokens its prompt shares with the prompt and the reply before it.
        prompt: Ids of the rest of its prompt.
        reply: Ids as they were sampled, the one that ends the reply included, if it was.
        logprobs: Log-probability of each under the model that played; empty where it is not known.
    """

    kept: int
    prompt: tuple[int, ...]
    reply: tuple[int, ...]
    logprobs: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable form that `from_json` reads."""
        fields: dict[str, Any] = {"kept": self.kept, "prompt": list(self.prompt)}
        fields["reply"] = list(self.reply)
        return {**fields, "logprobs": list(self.logprobs)} if self.logprobs else fields

    @classmethod
    def from_json(cls, data: Any) -> SampledTokens:
        """Build the tokens of a reply from parsed JSON.

        Raises:
            DataError: It is something else.
        """
        known = {"kept", "prompt", "reply", "logprobs"}
        if not isinstance(data, dict) or not {"kept", "prompt", "reply"} <= data.keys() <= known:
            raise DataError(f"expected the sampled tokens of a reply, got {data!r:.60}")
        kept, prompt, reply = data["kept"], data["prompt"], data["reply"]
        logprobs = data.get("logprobs", [])
        lists = isinstance(prompt, list) and isinstance(reply, list) and isinstance(logprobs, list)
        if not lists or not all(_is_id(token) for token in (kept, *prompt, *reply)):
            raise DataError(f"expected token ids, got {data!r:.60}")
        if logprobs and len(logprobs) != len(reply):
            raise DataError(
                f"expected a log-probability per sampled token, got {len(logprobs)} for "
                f"{len(reply)} tokens"
            )
        if not all(map(is_number, logprobs)):
            raise DataError(f"expected finite log-probabilities, got {logprobs!r:.60}")
        return cls(kept, tuple(prompt), tuple(reply), tuple(map(float, logprobs)))


def chain_prompt(
    known: Sequence[int],
    prompt: Sequence[int],
    reply: Sequence[int],
    logprobs: Sequence[float] = (),
) -> SampledTokens:
    """Return the tokens of a reply as a link: only what its prompt adds to what is known.

    Args:
        known: The prompt and the reply before it; empty for the first.
        prompt: All ids of its prompt.
        reply: What was sampled.
        logprobs: How likely that was.

    Example:
        >>> chain_prompt([5, 6, 7], [5, 6, 7, 8, 9], [1])
        SampledTokens(kept=3, prompt=(8, 9), reply=(1,), logprobs=())
    """
    kept = len(known)
    if list(known) != list(prompt[:kept]):
        pairs = enumerate(zip(known, prompt, strict=False))
        shorter = min(len(known), len(prompt))
        kept = next((i for i, (old, new) in pairs if old != new), shorter)
    return SampledTokens(kept, tuple(prompt[kept:]), tuple(reply), tuple(logprobs))


def unchain(tokens: Sequence[SampledTokens]) -> list[list[int]]:
    """Return the whole prompt of every reply of an episode.

    Raises:
        DataError: A link shares more tokens than there are before it.

    Example:
        >>> unchain([SampledTokens(0, (5, 6), (7,)), SampledTokens(3, (8,), (9,))])
        [[5, 6], [5, 6, 7, 8]]
    """
    known: list[int] = []
    prompts = []
    for link in tokens:
        if link.kept > len(known):
            raise DataError(f"sampled tokens share {link.kept} tokens with {len(known)}")
        prompts.append([*known[: link.kept], *link.prompt])
        known = [*prompts[-1], *link.reply]
    return prompts


def _is_id(token: Any) -> bool:
    return type(token) is int and token >= 0
