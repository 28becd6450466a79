"""What a server, or one request, asks for: one small JSON. Nothing here loads torch or vLLM.

{"method": "vispruner", "keep": 0.25, "arm": "padding"}
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from debias.names import one_of
from eval.core.settings import UNPRUNED, arm
from pruners import catalogue

VARIABLE = "DEBIAS_VLLM"  # the environment variable that holds the JSON
OWN = ("method", "keep", "arm", "scout", "trend")
EXAMPLE = '{"method": "vispruner", "keep": 0.25, "arm": "padding"}'


@dataclass(frozen=True)
class Asked:
    """A method in one arm, as the JSON names it.

    keep: a count, or a share of a picture's tokens. scout: how many decoder layers run ahead of the engine, for methods
    that read them; None: none. trend: as `--trend` of `run`. fields: the method's other fields, sorted by name.
    """

    method: str | None
    arm: str
    keep: int | float | None = None
    scout: int | None = None
    trend: str = "auto"
    fields: tuple[tuple[str, Any], ...] = field(default=())

    @property
    def key(self) -> str:
        """The same as canonical JSON: equal for equal requests, and read by `read`."""
        named = {name: getattr(self, name) for name in OWN if getattr(self, name) is not None}
        return json.dumps({**named, **dict(self.fields)}, sort_keys=True)


def read(given: str | Mapping[str, Any], where: str) -> Asked:
    """The request that a JSON text or object holds; a ValueError that begins with `where` names what is wrong."""
    try:
        return _asked(_object(given))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def asked_of(config: Any) -> Asked | None:
    """What a server was told: by its model's configuration ("debias" in --hf-overrides), or by the environment."""
    given = getattr(config, "debias", None)
    if given is not None:
        return read(given, "hf-overrides, debias")
    text = os.environ.get(VARIABLE)
    return read(text, VARIABLE) if text else None


def _object(given: str | Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(given, str):
        if not isinstance(given, Mapping):
            raise ValueError(f"expected an object such as {EXAMPLE}, found {given!r:.80}")
        return dict(given)
    try:
        value = json.loads(given)
    except (ValueError, RecursionError):
        raise ValueError(f"expected JSON such as {EXAMPLE}, found {given!r:.80}") from None
    if not isinstance(value, dict):
        raise ValueError(f"expected an object such as {EXAMPLE}, found {given!r:.80}")
    return value


def _asked(values: dict[str, Any]) -> Asked:
    chosen, method = values.pop("arm", None), values.pop("method", None)
    if chosen is not None and not isinstance(chosen, str):
        raise ValueError(f"expected the name of an arm in 'arm', found {chosen!r:.80}")
    if chosen is not None and arm(chosen) == UNPRUNED:
        return Asked(None, UNPRUNED)
    if not isinstance(method, str):
        raise ValueError(f"expected the name of a method in 'method', found {method!r:.80}; an example: {EXAMPLE}")
    method = catalogue.named(method)
    arms = catalogue.arms(method)
    chosen = arms[-1] if chosen is None else arm(chosen)
    if chosen not in arms:
        raise ValueError(f"{method} has the arms {' and '.join(arms)}, not {chosen!r}")
    scout, trend = values.pop("scout", None), values.pop("trend", "auto")
    if scout is not None and (type(scout) is not int or scout < 0):
        raise ValueError(f"scout={scout!r:.80}: expected a number of decoder layers")
    if not isinstance(trend, str):
        raise ValueError(f"trend={trend!r:.80}: expected a word, as `--trend` takes it")
    keep = values.pop("keep", None)
    known = [field.name for field in catalogue.fields(method)]
    for name in values:
        one_of(f"setting of {method}", name.split(".")[0], [*OWN, *known])
    return Asked(method, chosen, keep, scout, trend, tuple(sorted(values.items())))
