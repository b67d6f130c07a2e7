"""Recipes (JSON) of benchmarks, their model, and the dataset that one of them generates."""
