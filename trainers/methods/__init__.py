"""Training methods: SFT, trajectory DPO, mixture, PPO, and the group methods GRPO and RLOO."""
