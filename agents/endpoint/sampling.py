"""How replies of an endpoint are sampled, and what a request says of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from eto_gym.errors import EtoGymError, check_choice

FIELDS = ("temperature", "top_p", "max_tokens", "max_completion_tokens", "stop", "seed")
"""Fields of a request that can be left out."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How replies are sampled; `EndpointPolicy` explains the values."""

    temperature: float
    top_p: float
    max_new_tokens: int
    stop: tuple[str, ...]
    limit_field: Literal["max_tokens", "max_completion_tokens"]
    send_seed: bool
    leave_out: frozenset[str]
    extra_body: Mapping[str, Any]
    tokens: Literal["none", "ids", "logprobs"] = "none"

    def fields(self, seed: int) -> dict[str, Any]:
        """Return the fields of a request: those that say something and that the server takes.

        Args:
            seed: Of this reply; sent where it is sampled.
        """
        fields: dict[str, Any] = {
            "temperature": self.temperature,
            self.limit_field: self.max_new_tokens,
        }
        if self.top_p != 1.0:  # 1 keeps all, and some servers refuse it beside a temperature
            fields["top_p"] = self.top_p
        if self.stop:
            fields["stop"] = list(self.stop)
        if self.send_seed and (self.temperature > 0 or "temperature" in self.leave_out):
            fields["seed"] = seed
        if self.tokens == "logprobs":
            fields["logprobs"] = True
        return {name: value for name, value in fields.items() if name not in self.leave_out}

    def remedy(self, refusal: str) -> str:
        """Return what to do where a server refuses one of the fields, or nothing.

        Args:
            refusal: What the server said.
        """
        if self.limit_field == "max_tokens" and "max_completion_tokens" in refusal:
            return "; --policy-arg limit_field=max_completion_tokens sends that instead"
        named = [name for name in self.fields(0) if re.search(rf"\b{re.escape(name)}\b", refusal)]
        if not named:
            return ""
        return f"; --policy-arg leave_out={','.join(named)} leaves out what a server refuses"


def read_fields(fields: str | Sequence[str]) -> frozenset[str]:
    """Return the names of fields that no request shall have.

    Args:
        fields: A list, or a text with commas between.

    Raises:
        UnknownNameError: A request has no such field.
        EtoGymError: It is neither a text nor a list of texts.
    """
    names = fields.split(",") if isinstance(fields, str) else fields
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise EtoGymError(f"expected leave_out as a text or a list of texts, got {fields!r:.80}")
    found = frozenset(name.strip() for name in names) - {""}
    for name in sorted(found):
        check_choice("leave_out", name, FIELDS)
    return found
