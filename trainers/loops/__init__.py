"""Loops: a run folder of stages that play, choose, train and evaluate, once or several times."""
