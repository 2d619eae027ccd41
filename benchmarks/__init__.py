"""Measurements: every figure the project prints comes from a file under benchmarks/results, made by one of these commands."""
