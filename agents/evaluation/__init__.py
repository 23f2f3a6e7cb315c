"""Evaluation: estimates with intervals, paired tests, and reports."""
