"""Visual-token pruning on unmodified transformers: one method, one file; every method takes any debias."""

from __future__ import annotations

from typing import TYPE_CHECKING

from debias.late import loader

__all__ = ["Cut", "Merged", "Pruner", "catalogue", "find", "make", "names", "top"]

if TYPE_CHECKING:
    from pruners import catalogue
    from pruners.base import Pruner
    from pruners.catalogue import find, make, names
    from pruners.cut import Cut, Merged, top
else:  # torch is loaded with the first method or model, not with the package
    __getattr__, __dir__ = loader(
        __name__,
        {
            "base": ("Pruner",),
            "catalogue": ("find", "make", "names"),
            "cut": ("Cut", "Merged", "top"),
            "methods": (),
            "models": (),
        },
    )
