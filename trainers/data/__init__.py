"""From trajectories to batches: pairs, steps, rejection, encoding, batching, token trees."""
