"""What a run folder is worth: its scores, averages over benchmarks, and paired differences between arms.

Imports answering (for the folder), benchmarks and scoring.
"""
