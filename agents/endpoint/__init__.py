"""Models behind OpenAI-compatible endpoints: the policy, its clients, its servers' pool, faults."""

from eto_gym.agents.endpoint.policy import EndpointPolicy

__all__ = ["EndpointPolicy"]
