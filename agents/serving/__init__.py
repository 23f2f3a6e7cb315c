"""Model servers as processes of this machine, each with a watcher that ends it."""

from eto_gym.agents.serving.servers import ModelServers

__all__ = ["ModelServers"]
