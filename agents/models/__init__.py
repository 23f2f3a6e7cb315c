"""Local language models: chat codec, key-value rows, decoding, loading, and the tiny model."""

from eto_gym.agents.models.quiet import hide_missing_kernels

hide_missing_kernels()
