"""Two models on the same behaviors, paired."""
