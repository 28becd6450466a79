"""The scores of run folders, averages over benchmarks, and paired differences between arms.

Imports answering (for the folder), benchmarks and scoring.
"""
