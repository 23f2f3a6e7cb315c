"""Command lines that users give as one text, with placeholders such as `{model}` in them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from eto_gym.errors import EtoGymError


def split_command(command: str, placeholders: Sequence[str], *, example: str) -> list[str]:
    """Split a command into words, as a shell does.

    Args:
        command: The command.
        placeholders: What must stand in it.
        example: A command that has them, for the message.

    Raises:
        EtoGymError: It has an open quote, no words, or lacks a placeholder.

    Example:
        >>> split_command("serve {model} 'a b'", ["{model}"], example="serve {model}")
        ['serve', '{model}', 'a b']
    """
    try:
        words = shlex.split(command)
    except ValueError as err:
        raise EtoGymError(f"cannot read the command {command!r}: {err}") from err
    missing = [p for p in placeholders if not any(p in word for word in words)]
    if missing or not words:
        wanted = " and ".join(missing) or "a program"
        raise EtoGymError(f"expected {wanted} in the command {command!r}, as in {example!r}")
    return words


def fill(words: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """Put values in the places of their placeholders.

    Example:
        >>> fill(["serve", "{model}", "--port={port}"], {"{model}": "m", "{port}": "80"})
        ['serve', 'm', '--port=80']
    """
    filled = []
    for word in words:
        for name, value in values.items():
            word = word.replace(name, value)
        filled.append(word)
    return filled


def split_server_command(command: str) -> list[str]:
    """Split a command that starts the server of a model, with places for what it is to serve.

    Raises:
        EtoGymError: It cannot be read, or lacks a placeholder.
    """
    wanted = ["{model}", "{host}", "{port}"]
    return split_command(command, wanted, example="vllm serve {model} --host {host} --port {port}")
