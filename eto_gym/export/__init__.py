"""Trajectories and pairs in the forms of other tools: datasets, TRL, Inspect, ATIF, ShareGPT."""

from eto_gym.export.writing import FORMS, Exported, export

__all__ = ["FORMS", "Exported", "export"]
