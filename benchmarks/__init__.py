"""Benchmarks: `python -m benchmarks kernels|models|solve|step|sampler|all`, `compare`, `table` and
`page`; see docs/performance.md.
"""
