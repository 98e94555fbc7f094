"""What makes the speed tables: `python -m benchmarks`."""
