"""Training methods: SFT, trajectory DPO and the loop that iterates them."""
