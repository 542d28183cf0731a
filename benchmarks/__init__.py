"""Benchmarks: `python -m benchmarks kernels`, `compare` and `table`; see docs/performance.md."""
