"""Policies and the rollout engine: whatever acts in an environment.

The names below are imported when they are first used, so importing this package imports no torch.
"""

from typing import TYPE_CHECKING

from eto_gym.lazy import lazy_exports

if TYPE_CHECKING:
    from eto_gym.agents.endpoint import EndpointPolicy as EndpointPolicy
    from eto_gym.agents.local import LocalPolicy as LocalPolicy
    from eto_gym.agents.policy import Conversation as Conversation
    from eto_gym.agents.policy import Policy as Policy
    from eto_gym.agents.policy import PolicyReply as PolicyReply
    from eto_gym.agents.report import evaluate as evaluate
    from eto_gym.agents.scripted import ExpertPolicy as ExpertPolicy
    from eto_gym.agents.scripted import PlayerPolicy as PlayerPolicy
    from eto_gym.agents.scripted import RandomPolicy as RandomPolicy
    from eto_gym.agents.scripted import ReplayPolicy as ReplayPolicy

__all__ = [
    "Conversation",
    "EndpointPolicy",
    "ExpertPolicy",
    "LocalPolicy",
    "PlayerPolicy",
    "Policy",
    "PolicyReply",
    "RandomPolicy",
    "ReplayPolicy",
    "evaluate",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "endpoint": ["EndpointPolicy"],
        "local": ["LocalPolicy"],
        "policy": ["Conversation", "Policy", "PolicyReply"],
        "report": ["evaluate"],
        "scripted": ["ExpertPolicy", "PlayerPolicy", "RandomPolicy", "ReplayPolicy"],
    },
)
