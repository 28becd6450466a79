"""From a question to a row: which questions, in which batches, by which model and method, and the folder that keeps
the rows.

Imports reading, benchmarks and bias (for trends that are fitted on the way).
"""
