"""Methods side by side, and what the simulator says of the states that they meet."""
