"""Benchmarks of s2vnet and other networks. Commands run from the repository's root: ``python -m benchmarks.run``."""
