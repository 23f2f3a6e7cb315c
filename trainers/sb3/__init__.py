"""Training Stable-Baselines3 algorithms on text environments; needs the extra `sb3`."""
