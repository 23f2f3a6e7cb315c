"""Sizes that must fit each other: tokenizer and embedding, conversations and positions."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eto_gym.errors import DataError

_LONGEST = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
"""What families of models call the longest conversation in their configuration."""

_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in", "embeddings")
"""What families of models call their embedding."""

_OFFSETS = 8
"""Rows that a table of positions may have beyond the longest conversation (OPT has two)."""


def longest_of(config: Any) -> int | None:
    """Return the longest conversation in tokens that a configuration names; None for none.

    Args:
        config: A configuration of transformers, or what `config.json` holds.
    """
    for name in _LONGEST:
        found = config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
        if isinstance(found, int) and not isinstance(found, bool) and found > 0:
            return found
    return None


def positions_of(model: Any) -> int | None:
    """Return how many positions a model has a table of, beyond which it cannot read at all.

    Most models compute positions, and read further than they were trained to: None for these.
    """
    import torch

    config = model.config.get_text_config()
    longest = longest_of(config)
    if longest is None or config.model_type == "mpt":  # its biases are as many as that
        return longest
    words = model.get_input_embeddings()
    tables = [m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding) and m != words]
    tables += [buffer for buffer in model.buffers() if buffer.ndim == 2]
    known = any(longest <= table.shape[0] <= longest + _OFFSETS for table in tables)
    return longest if known else None


def check_positions(model: Any, tokens: int, remedy: str) -> None:
    """Refuse conversations that are longer than a model's table of positions.

    Args:
        model: The model.
        tokens: Length of the longest conversation.
        remedy: What to do instead; ends the message.

    Raises:
        DataError: They are.
    """
    positions = positions_of(model)
    if positions is not None and tokens > positions:
        raise DataError(
            f"{type(model).__name__} has a table of {positions} positions, and conversations are "
            f"up to {tokens} tokens long: {remedy}"
        )


def check_vocabulary(tokenizer: Any, rows: int | None, model: object) -> None:
    """Refuse a tokenizer with tokens in use for which the model's embedding has no row.

    Tokens that neither text nor the chat template can lead to do no harm.

    Args:
        tokenizer: A tokenizer of transformers.
        rows: Rows of the embedding; None: not known, and nothing is refused.
        model: Name of the model, for the message.

    Raises:
        DataError: There is such a token.
    """
    added = {
        number: token
        for number, token in tokenizer.added_tokens_decoder.items()
        if rows is not None and number >= rows
    }
    if rows is None or not (added or tokenizer.vocab_size > rows):
        return
    used = {tokenizer.eos_token_id, tokenizer.pad_token_id}
    template = str(getattr(tokenizer, "chat_template", None) or "")
    for number, token in added.items():
        if number in used or not token.special or token.content in template:
            raise DataError(
                f"the tokenizer of {model} has the token {token.content!r:.60} with the number "
                f"{number}, and the embedding {rows} rows: a token was added to the one and not to "
                "the other. Call model.resize_token_embeddings(len(tokenizer)) once and save both"
            )
    if tokenizer.vocab_size > rows:
        raise DataError(
            f"the tokenizer of {model} knows {tokenizer.vocab_size} tokens, and the embedding has "
            f"{rows} rows: the tokenizer belongs to another model"
        )


def adapter_rows(adapter: str | Path) -> int | None:
    """Return the rows of the embedding that an adapter brings along; None if it brings none.

    Raises:
        DataError: Its file is damaged.
    """
    path = Path(adapter) / "adapter_model.safetensors"
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            shapes = json.loads(file.read(min(size, 1 << 27)))
        for name, about in shapes.items():
            module, _, kind = name.rpartition(".")
            if kind == "weight" and module.rpartition(".")[2] in _EMBEDDINGS:
                return int(about["shape"][0])
    except FileNotFoundError:
        return None  # an older one, or one of the hub: what loads it will tell
    except (OSError, ValueError, RecursionError, struct.error, AttributeError) as err:
        raise DataError(f"{path} is damaged: {err}") from err
    except (TypeError, LookupError) as err:
        raise DataError(f"{path} is damaged: {err!r}") from err
    return None
