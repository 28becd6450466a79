"""Model families: one adapter each, found by the checkpoint's model_type (pruners/models/<model_type>.py).

What a family says of itself is read from its file; only `family` and `adapter` load torch.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from debias.late import loader
from debias.names import nearest
from pruners.loading.folder import config_in, local, square
from pruners.loading.refused import REFUSED
from pruners.written import Class, made_from

if TYPE_CHECKING:
    from pruners.models.base import Adapter
    from pruners.models.request import Encoded, Request
else:  # torch is loaded with the first family, not with the package
    __getattr__, __dir__ = loader(__name__, {"base": ("Adapter",), "request": ("Encoded", "Request")})

__all__ = ["Adapter", "Encoded", "Request", "adapter", "families", "family", "kind_of", "known_checkpoints"]


def families() -> list[str]:
    """Every model_type there is an adapter for."""
    return [name for name in _modules() if _class(name) is not None]


def family(model_type: str) -> type[Adapter]:
    """The adapter class of a model_type."""
    if model_type in REFUSED:
        raise ValueError(f"models of type {model_type!r} cannot be pruned here: {REFUSED[model_type]}")
    found = _class(model_type) if model_type in _modules() else None
    if found is None:
        known = families()
        raise ValueError(
            f"no adapter for models of type {model_type!r}{nearest(model_type, known)}; there are {', '.join(known)}; "
            "docs/new_model.md tells how to add a family"
        )
    adapter_class: type[Adapter] = found.imported()
    return adapter_class


def kind_of(config: Mapping[str, Any]) -> str:
    """The model_type of a checkpoint's configuration, also where that is the authors' own."""
    own = (name for name, key in declared("authors_key").items() if key and key in config)
    return next(own, str(config.get("model_type")))


def picture_tokens(config: Mapping[str, Any]) -> int | None:
    """Visual tokens of a picture by a checkpoint's configuration; None: that depends on the picture."""
    side = square(config) if declared("one_square").get(kind_of(config)) else None
    return None if side is None else side**2


def known_checkpoints() -> list[str]:
    """Checkpoints on the hub, of every family."""
    return [checkpoint for named in declared("known").values() for checkpoint in named]


def declared(variable: str) -> dict[str, Any]:
    """What each family, or the nearest of its bases, sets a class variable to."""
    return {name: found.declared(variable) for name in _modules() if (found := _class(name)) is not None}


@overload
def adapter(model: str | Path) -> type[Adapter]: ...
@overload
def adapter(model: Any) -> Any: ...
def adapter(model: Any) -> Any:
    """The family's adapter: bound to a loaded model, or of a path or hub id the class, to `.load(path)` with."""
    if isinstance(model, (str, Path)):
        return family(_model_type(str(model)))
    return family(str(getattr(getattr(model, "config", None), "model_type", type(model).__name__)))(model)


def _model_type(path: str) -> str:
    return str(config_in(local(path, only="config.json"))["model_type"])


def _modules() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def _class(name: str) -> Class | None:
    """The class that a family's file defines; None: it is not a family's."""
    return made_from((f"{__name__}.base", "Adapter"), f"{__name__}.{name}")
