"""From answers to differences. `normalise`, `box`, `statistics` and `judge` are the arithmetic of scores and know no
benchmark and no model; `results`, `averages`, `contrast`, `compare` and `verdict` score run folders and compare their
arms in pairs.

The first four import core alone; the others also answering (for the folder) and benchmarks.
"""
