"""Measurements: every figure the project prints comes from a file under benchmarks/results.

Made by one of these commands.
"""
