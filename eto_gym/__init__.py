"""Text environments for LLM agents as Gymnasium environments, and the ETO method to train on them.

Importing this package registers the environments and nothing else: engines, torch and transformers
are imported when they are first used.
"""

from eto_gym.conversation import ConversationEnv, EpisodeResult
from eto_gym.env import TextEnv
from eto_gym.errors import (
    DataError,
    EngineError,
    EtoGymError,
    MissingDependencyError,
    UnknownNameError,
)
from eto_gym.expert import Expert, Reply
from eto_gym.lookup import opening, prompt, splits, tasks
from eto_gym.prompt import Message, Prompt
from eto_gym.registration import register_all, registered_ids
from eto_gym.snapshot import get_state, set_state
from eto_gym.spaces import UnicodeText
from eto_gym.tasks import Task, TaskSet
from eto_gym.trajectories import PreferencePair, Step, Trajectory, TrajectoryStore

__version__ = "0.1.0"

__all__ = [
    "ConversationEnv",
    "DataError",
    "EngineError",
    "EpisodeResult",
    "EtoGymError",
    "Expert",
    "Message",
    "MissingDependencyError",
    "PreferencePair",
    "Prompt",
    "Reply",
    "Step",
    "Task",
    "TaskSet",
    "TextEnv",
    "Trajectory",
    "TrajectoryStore",
    "UnicodeText",
    "UnknownNameError",
    "__version__",
    "get_state",
    "opening",
    "prompt",
    "register_all",
    "registered_ids",
    "set_state",
    "splits",
    "tasks",
]

register_all()
