"""Evaluation: benchmarks, scorers, the runner, comparison, and the command line."""
