"""What the benchmarks share, and the two sides that they compare, each in processes of its own."""
