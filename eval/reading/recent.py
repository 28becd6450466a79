"""A store of what was read or computed lately, bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """Values by key, the least recently used forgotten beyond `budget` bytes. Threads may share it."""

    def __init__(self, budget: int, size: Callable[[T], int]) -> None:
        self.budget, self.held, self._size = budget, 0, size
        self._known: OrderedDict[Any, T] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Any) -> T | None:
        """The value of a key; None where it is not held."""
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
            return self._known.get(key)

    def put(self, key: Any, value: T) -> None:
        """Hold a value; one that another thread has put meanwhile stays."""
        with self._lock:
            if key not in self._known:
                self._known[key] = value
                self.held += self._size(value)
            while self.held > self.budget and self._known:
                self.held -= self._size(self._known.popitem(last=False)[1])
