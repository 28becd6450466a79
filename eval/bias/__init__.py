"""How attention depends on position: measured layer by layer, and fitted.

Imports reading and benchmarks; `fits`, which a command works with, also answering and showing.
"""
