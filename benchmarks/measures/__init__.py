"""Scores, timings and the environment that figures were measured in."""
