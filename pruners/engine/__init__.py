"""The mechanism: hooks, caches, masks and the vision tower of a running model.

Only this room touches a decoder layer. Imports `pruners.base`, `pruners.view` and `pruners.models`.
"""
