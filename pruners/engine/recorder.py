"""One method of one module, watched or replaced. All of it sits on the instance and is removed with the hooks."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any


class Recorder:
    """Notes what the method is called with."""

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
        """Take the recorder off its module."""
        delattr(self.module, self.name)


class Detour:
    """Another forward for one module, on the instance, until it is removed."""

    def __init__(self, module: Any, forward: Callable[..., Any]) -> None:
        self.module, self.before = module, vars(module).get("forward")
        module.forward = forward

    def remove(self) -> None:
        """Give the module back the forward that it had."""
        if self.before is None:
            del self.module.forward
        else:
            self.module.forward = self.before
