"""The model in training: loading, scoring, tree attention, optimizers, sharding, offload."""
