"""The viewer: trajectories, pairs and run folders as one HTML file that needs nothing else."""

from eto_gym.view.page import write_view

__all__ = ["write_view"]
