"""Many text environments at once, in this process or in worker processes.

`gym.make_vec("ETO/<name>-v0", num_envs=N)` returns a `TextVectorEnv`.
"""

from eto_gym.vector.env import TextVectorEnv, Vectorization
from eto_gym.vector.group import EnvMaker
from eto_gym.vector.slots import SlotResult

__all__ = ["EnvMaker", "SlotResult", "TextVectorEnv", "Vectorization"]
