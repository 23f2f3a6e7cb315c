"""Why a page did not change, from the page that was seen: the helpful feedback of WebShop."""

from __future__ import annotations

from collections.abc import Sequence

from eto_gym.envs.webshop.pages import parse_action
from eto_gym.prompt import nearest, shown

_NAMED = 10  # targets that are named at most


def explain(action: str, offered: Sequence[str]) -> str:
    """Return why an action changed nothing; "" where it is one of the page.

    Args:
        action: The action.
        offered: The actions of the page that it was taken on; what can be clicked is on the page.

    Example:
        >>> explain("click[red]", ["click[blue]", "search[<query>]"])
        "This page has no 'red' to click. It has: 'blue'."
    """
    name, argument = parse_action(action)
    if argument is None or name not in ("search", "click"):
        return f"{shown(action)} is no action. The actions are: search[words], click[name]."
    if name == "search":
        return ""
    targets = [one[len("click[") : -1] for one in offered if one.startswith("click[")]
    wanted = argument.lower()
    if wanted in map(str.lower, targets):
        return ""
    named = nearest(wanted, targets) or targets[:_NAMED]
    says = f"This page has no {shown(argument)} to click"
    if not named:
        return f"{says}, nor anything else. One can search here: search[words]."
    return f"{says}. It has: {', '.join(map(repr, named))}."
