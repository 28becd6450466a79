"""Writes the questions of the drawn world in the file layouts of the benchmarks. Imports `drawn`."""
