"""What one method of one module is called with."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any


class Recorder:
    """Notes what one method of one module is called with. It sits on the instance and is removed with the hooks."""

    def __init__(self, module: Any, name: str, wanted: Sequence[str], into: dict[str, Any]) -> None:
        self.module, self.name = module, name
        method = getattr(module, name)
        signature = inspect.signature(method)

        @functools.wraps(method)
        def recording(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs).arguments
            given = {**given, **given.get("kwargs", {})}
            for key in wanted:
                if given.get(key) is not None:
                    into.setdefault(key, given[key])  # a clip's method may call the pictures' one with its own
            return method(*args, **kwargs)

        setattr(module, name, recording)

    def remove(self) -> None:
        delattr(self.module, self.name)
