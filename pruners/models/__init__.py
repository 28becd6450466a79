"""Model families: one adapter each, found by the checkpoint's model_type (pruners/models/<model_type>.py)."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from debias.late import loader
from debias.names import nearest
from pruners.models.folder import config_in, local
from pruners.models.refused import REFUSED

if TYPE_CHECKING:
    from pruners.models.base import Adapter
    from pruners.models.request import Encoded, Request
else:  # torch is loaded with the first family, not with the package
    __getattr__, __dir__ = loader(__name__, {"base": ("Adapter",), "request": ("Encoded", "Request")})

__all__ = ["Adapter", "Encoded", "Request", "adapter", "families", "family", "kind_of", "known_checkpoints"]


def families() -> list[str]:
    """Every model_type there is an adapter for."""
    return [name for name in _modules() if _defined(name) is not None]


def family(model_type: str) -> type[Adapter]:
    """The adapter class of a model_type."""
    if model_type in REFUSED:
        raise ValueError(f"models of type {model_type!r} cannot be pruned here: {REFUSED[model_type]}")
    defined = _defined(model_type) if model_type in _modules() else None
    if defined is None:
        known = families()
        raise ValueError(
            f"no adapter for models of type {model_type!r}{nearest(model_type, known)}; there are {', '.join(known)}; "
            "docs/new_model.md tells how to add a family"
        )
    return defined


def kind_of(config: Mapping[str, Any]) -> str:
    """The model_type of a checkpoint's configuration, also where that is the authors' own."""
    own = (name for name in families() if family(name).authors_key and family(name).authors_key in config)
    return next(own, str(config.get("model_type")))


def known_checkpoints() -> list[str]:
    """Checkpoints on the hub, of every family: read from the families' files, so that no torch is loaded for it."""
    written = [ast.parse(Path(folder, f"{name}.py").read_text("utf-8")) for name in _modules() for folder in __path__]
    lines = [line for tree in written for kind in tree.body if isinstance(kind, ast.ClassDef) for line in kind.body]
    given = [line for line in lines if isinstance(line, (ast.Assign, ast.AnnAssign))]
    lists = [line.value for line in given if re.match(r"known\b", ast.unparse(line))]
    return [checkpoint for named in lists if named is not None for checkpoint in ast.literal_eval(named)]


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


def _defined(name: str) -> type[Adapter] | None:
    base: type[Adapter] = importlib.import_module(f"{__name__}.base").Adapter
    module = importlib.import_module(f"{__name__}.{name}")
    for value in vars(module).values():
        if (
            inspect.isclass(value)
            and issubclass(value, base)
            and value.__module__ == module.__name__ != base.__module__
        ):
            return value
    return None
