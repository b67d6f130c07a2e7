"""Inputs, cases and comparison of files of :mod:`benchmarks.same_labels`."""
