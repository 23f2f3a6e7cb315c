"""Scripted players: what they believe, the expert, aimless players, and the thoughts they voice."""
