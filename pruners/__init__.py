"""Visual-token pruning on unmodified transformers: one method, one file; every method takes any debias."""

from pruners.base import Cut, Merged, Pruner, find, make, names, top

__all__ = ["Cut", "Merged", "Pruner", "find", "make", "names", "top"]
