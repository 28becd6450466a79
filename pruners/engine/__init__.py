"""The mechanism: hooks, caches, masks and the vision tower of a running model.

Only this room touches a decoder layer. Imports `pruners.method`, `pruners.cut`, `pruners.view` and `pruners.models`.
"""
