"""`python -m benchmarks quality`: the methods against each other, at equal compute."""
