"""Policies and the rollout engine: whatever acts in an environment.

Importing this package imports no torch; most of the names below are imported when they are first
used.
"""

from typing import TYPE_CHECKING

# The function takes the name of the module, which stays importable as a module.
from eto_gym.agents.collect import RolloutSpec, collect
from eto_gym.agents.models.hardware import hold_onednn
from eto_gym.lazy import lazy_exports

hold_onednn()

if TYPE_CHECKING:
    from eto_gym.agents.endpoint import EndpointPolicy as EndpointPolicy
    from eto_gym.agents.evaluation.report import evaluate as evaluate
    from eto_gym.agents.models.local import LocalPolicy as LocalPolicy
    from eto_gym.agents.policy import Conversation as Conversation
    from eto_gym.agents.policy import Policy as Policy
    from eto_gym.agents.policy import PolicyReply as PolicyReply
    from eto_gym.agents.rollout import Episode as Episode
    from eto_gym.agents.rollout import Rollout as Rollout
    from eto_gym.agents.rollout import plan_episodes as plan_episodes
    from eto_gym.agents.scripted import ExpertPolicy as ExpertPolicy
    from eto_gym.agents.scripted import PlayerPolicy as PlayerPolicy
    from eto_gym.agents.scripted import RandomPolicy as RandomPolicy
    from eto_gym.agents.scripted import ReplayPolicy as ReplayPolicy
    from eto_gym.agents.serving import ModelServers as ModelServers

__all__ = [
    "Conversation",
    "EndpointPolicy",
    "Episode",
    "ExpertPolicy",
    "LocalPolicy",
    "ModelServers",
    "PlayerPolicy",
    "Policy",
    "PolicyReply",
    "RandomPolicy",
    "ReplayPolicy",
    "Rollout",
    "RolloutSpec",
    "collect",
    "evaluate",
    "plan_episodes",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "endpoint": ["EndpointPolicy"],
        "evaluation.report": ["evaluate"],
        "models.local": ["LocalPolicy"],
        "policy": ["Conversation", "Policy", "PolicyReply"],
        "rollout": ["Episode", "Rollout", "plan_episodes"],
        "rollout.collect": ["RolloutSpec", "collect"],
        "scripted": ["ExpertPolicy", "PlayerPolicy", "RandomPolicy", "ReplayPolicy"],
        "serving": ["ModelServers"],
    },
)
