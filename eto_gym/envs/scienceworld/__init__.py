"""ScienceWorld: elementary-school science experiments in a simulated house.

The real engine runs in a Java virtual machine that this package hosts; importing it starts nothing
and needs neither Java nor the `scienceworld` extra.
"""

from eto_gym.envs.scienceworld.env import ScienceWorldEnv
from eto_gym.envs.scienceworld.tasks import load_tasks, task_names

__all__ = ["ScienceWorldEnv", "load_tasks", "task_names"]
