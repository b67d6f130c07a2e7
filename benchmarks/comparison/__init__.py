"""What benchmarks.same_labels runs and compares."""
