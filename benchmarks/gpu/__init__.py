"""One run that measures a GPU within a time limit: training beside TRL, rollouts, and tests."""
