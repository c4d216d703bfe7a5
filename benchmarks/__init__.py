"""Measurements: what is fast, on which machine, against what."""
