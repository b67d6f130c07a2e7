"""The stages that :mod:`benchmarks.run` runs for each fold, seed and method."""
