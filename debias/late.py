"""Public names that are imported when they are first asked for, so that importing a package loads no torch."""

from __future__ import annotations

import importlib
import sys
from typing import Any, Callable, Dict, List, Sequence, Tuple


def loader(package: str, modules: Dict[str, Sequence[str]]) -> Tuple[Callable[[str], Any], Callable[[], List[str]]]:
    """`__getattr__` and `__dir__` of a package whose `modules` define these names.

    A module is a name itself, too, unless it is a folder's (`folder.module`).
    """
    homes = {name: module for module, names in modules.items() for name in names}

    def get(name: str) -> Any:
        if name in homes:
            value = getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        elif name in modules:
            value = importlib.import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)
        return value

    def known() -> List[str]:
        return sorted({*vars(sys.modules[package]), *homes, *(name for name in modules if "." not in name)})

    return get, known
