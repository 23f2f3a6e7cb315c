"""Every exception that eto-gym raises on purpose, and the two helpers that word them."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from difflib import get_close_matches
from types import ModuleType

_SHOWN, _SHOWN_LENGTH = 8, 160  # known names in a message, and how many characters they may have


class EtoGymError(Exception):
    """Base class: catch it to catch every error that eto-gym raises on purpose."""


class UnknownNameError(EtoGymError, ValueError):
    """A split, task, option or method name that does not exist."""


class DataError(EtoGymError):
    """Benchmark data is missing, incomplete or malformed."""


class EngineError(EtoGymError):
    """An engine failed in the middle of an episode; the episode cannot go on."""


class MissingDependencyError(EtoGymError, ImportError):
    """A feature needs a package that is not installed."""


def unknown_name(kind: str, value: object, known: Iterable[str]) -> UnknownNameError:
    """Word the error for `value`, which is not among the `known` names of this `kind`.

    The message says what was expected, what came, and the closest name if one is close. Long lists
    of known names, and lists of long ones, are cut.
    """
    names = list(known)
    count = 0
    while count < min(len(names), _SHOWN) and sum(map(len, names[: count + 1])) <= _SHOWN_LENGTH:
        count += 1
    count = max(count, 1)
    more = f", ... ({len(names)} in all)" if len(names) > count else ""
    shown = ", ".join(names[:count]) + more
    close = get_close_matches(str(value)[:_SHOWN_LENGTH], names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return UnknownNameError(f"expected {kind} in {{{shown}}}, got {value!r:.200}.{hint}")


def check_choice(kind: str, value: str, known: Iterable[str]) -> str:
    """Return `value` if it is one of `known`, else raise `UnknownNameError`."""
    names = list(known)
    if value not in names:
        raise unknown_name(kind, value, names)
    return value


def require(module: str, *, feature: str, extra: str) -> ModuleType:
    """Import `module` or say which feature needs it and the pip line that installs it.

    Args:
        module: Dotted module name, imported on this call only.
        feature: What the user asked for, as a noun phrase ("the ScienceWorld engine").
        extra: Name of the extra of eto-gym that installs the module.

    Raises:
        MissingDependencyError: The module, or something that it imports, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as err:
        raise MissingDependencyError(
            f"{feature} needs the package {(err.name or module)!r}, which is not installed. "
            f'Install it with: pip install "eto-gym[{extra}]"'
        ) from err
