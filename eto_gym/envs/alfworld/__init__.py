"""ALFWorld: household tasks in text, on an engine of our own or on the official one."""

from eto_gym.envs.alfworld.env import ALFWorldEnv

__all__ = ["ALFWorldEnv"]
