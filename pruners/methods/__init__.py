"""The pruning methods: one file each.

A file here imports `pruners.base`, `pruners.cut`, `pruners.view` and the arithmetic beside them, never the engine.
"""
