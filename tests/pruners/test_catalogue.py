"""What is read of the methods' files is what Python makes of them, and nobody loads torch for it."""

import ast
import dataclasses
import importlib
import io
import subprocess
import sys
import types
import typing
from pathlib import Path

import pytest

from pruners import catalogue, methods
from pruners.base import Pruner
from pruners.written import path_of

ROOT = Path(__file__).parents[2]
NAMES = catalogue.names()


def test_every_file_is_a_method_and_every_method_a_file():
    assert sorted(path.stem for path in (ROOT / "pruners" / "methods").glob("*.py") if path.stem != "__init__") == NAMES
    for name in NAMES:
        kind = catalogue.find(name)
        assert issubclass(kind, Pruner)
        assert kind.__module__ == f"pruners.methods.{name}"
        assert catalogue.title(name) == (kind.title or kind.__name__)
    assert catalogue.title("illava") == "iLLaVA"


@pytest.mark.parametrize("name", NAMES)
def test_fields_are_those_of_the_dataclass(name):
    kind = catalogue.find(name)
    read, made = catalogue.fields(name), dataclasses.fields(kind)
    assert [field.name for field in read] == [field.name for field in made]
    homes = [vars(importlib.import_module(base.__module__)) for base in kind.__mro__]
    known = {name: value for home in homes for name, value in home.items()}
    for field, true in zip(read, made, strict=True):
        assert ast.unparse(ast.parse(true.type)) == field.annotation
        assert eval(field.default, known) == true.default


@pytest.mark.parametrize("name", NAMES)
def test_class_variables_are_read_along_the_bases(name):
    for variable in ("positions", "shrink_cache", "views"):
        assert catalogue.declared(name, variable) == getattr(catalogue.find(name), variable)
    with pytest.raises(ValueError, match=f"{catalogue.find(name).__name__} says nothing of 'weather'"):
        catalogue.declared(name, "weather")


@pytest.mark.parametrize("name", NAMES)
def test_what_a_field_may_hold_is_what_its_annotation_says(name):
    hints = typing.get_type_hints(catalogue.find(name))
    for field in catalogue.fields(name):
        hint = hints[field.name]
        union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        true = {short(part) for part in (typing.get_args(hint) if union else [hint])}
        told = {
            part.node.name if isinstance(part, catalogue.Class) else ast.unparse(part)
            for part in catalogue.kinds(field)
        }
        assert told == true


def short(part):
    """A type as a file writes it."""
    if part is type(None):
        return "None"
    return part.__name__ if isinstance(part, type) and not typing.get_args(part) else str(part).replace("typing.", "")


def test_arms_and_baselines_are_those_of_the_classes():
    assert all(catalogue.arms(name) == catalogue.find(name).arms() for name in NAMES)
    assert catalogue.baselines() == [name for name in NAMES if catalogue.find(name).reads == "nothing"]
    assert 0 < len(catalogue.baselines()) < 5


def test_a_field_holds_the_dataclass_that_is_named():
    one = dataclasses.make_dataclass("One", ["size"])
    other = dataclasses.make_dataclass("Other", ["size"])
    for name, kind in (("one", one), ("other", other), ("One", one), (None, one), ("third", one)):
        assert catalogue.value_of(int | one | other | None, name) is kind
    assert catalogue.value_of(int | None, "one") is None


def test_names_are_understood_in_any_spelling_and_misspelt_ones_answered():
    assert [catalogue.named(name) for name in ("fastv", "PDrop", "SparseVLMs", "Vis-Pruner", "PruMerge+")] == [
        "fastv", "pyramiddrop", "sparsevlm", "vispruner", "prumergeplus",
    ]  # fmt: skip
    assert catalogue.make("FastV", keep=3) == catalogue.make("fastv", keep=3)
    with pytest.raises(ValueError, match=r"unknown pruning method 'fastvv'.*did you mean fastv\?"):
        catalogue.fields("fastvv")
    with pytest.raises(ValueError, match=r"unknown field of himap 'secnod'.*did you mean second"):
        catalogue.check_field("himap", "secnod")
    with pytest.raises(ValueError, match="unknown field of fastv 'keeps'"):
        catalogue.make("fastv", keeps=3)
    for nothing in ("", " ", "-_", None, 3, "base", "../fastv"):
        with pytest.raises(ValueError, match="unknown pruning method"):
            catalogue.named(nothing)


@pytest.fixture
def written(tmp_path, monkeypatch):
    """written(text) puts one more method, `more`, beside the others."""

    def write(text):
        (tmp_path / "more.py").write_text(text, encoding="utf-8")

    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    yield write
    sys.modules.pop("pruners.methods.more", None)
    vars(methods).pop("more", None)


HEAD = "from dataclasses import dataclass\nfrom typing import ClassVar\n"


def test_a_method_may_be_made_from_another_one_and_from_the_package_name(written):
    written(
        f"{HEAD}from pruners import Pruner as Any\nfrom pruners.methods.fastv import FastV as Old\n"
        "class Helper:\n    keep: str = 'no'\n"
        "@dataclass(frozen=True)\nclass More(Helper, Old):\n    layer: int = 7\n    heads: int = 1 + 1\n"
        "    positions: ClassVar[str] = 'compact'\n"
    )
    read = [(field.name, field.default) for field in catalogue.fields("more")]
    assert read == [("keep", "128"), ("mode", "'gather'"), ("layer", "7"), ("heads", "1 + 1")]
    assert [name for name, _ in read] == [field.name for field in dataclasses.fields(catalogue.find("more"))]
    assert catalogue.declared("more", "positions") == "compact"
    written(f"{HEAD}from pruners import Pruner as Any\n@dataclass(frozen=True)\nclass More(Any):\n    layer: int = 9\n")
    assert [(field.name, field.default) for field in catalogue.fields("more")] == [("keep", "128"), ("layer", "9")]


def test_a_file_is_read_as_python_reads_it(written, monkeypatch):
    """In UTF-8 wherever; names without a value and places in something else are no class variables."""
    monkeypatch.setattr(io, "text_encoding", lambda encoding, *more: encoding or "ascii")
    written(
        f"{HEAD}from pruners import Pruner\nothers = {{}}  # Größe\nothers['a']: int = 3\n"
        "@dataclass(frozen=True)\nclass More(Pruner):\n    positions: ClassVar[str]\n"
        "    others['b']: int = 4\n    others['c'] = 5\n    one = two = 3\n    last: int = 6\n"
    )
    assert [(field.name, field.default) for field in catalogue.fields("more")] == [("keep", "128"), ("last", "6")]
    assert catalogue.declared("more", "positions") == Pruner.positions
    assert catalogue.declared("more", "one") == 3
    written(f"{HEAD}import pruners.base as home\nclass More(home.Pruner):\n    pass\n")
    with pytest.raises(ValueError, match=r"more\.py: expected a class that is made from pruners\.base\.Pruner"):
        catalogue.fields("more")


def test_a_field_without_a_default_has_none():
    (prior,) = (
        kind
        for field in catalogue.fields("d2pruner")
        for kind in catalogue.kinds(field)
        if isinstance(kind, catalogue.Class) and kind.node.name == "Prior"
    )
    read = {field.name: (field.default, field.module) for field in catalogue.fields_of(prior)}
    assert read["layer"] == read["model"] == ("", "pruners.prior")
    assert read["images"] == ("0", "pruners.prior")


def test_a_file_has_the_one_spelling_of_its_name(tmp_path, monkeypatch):
    (tmp_path / "value_norm.py").write_text("", encoding="utf-8")
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    for name in ("value_norm", "ValueNorm"):
        with pytest.raises(ValueError, match=r"value_norm\.py: names of methods are told apart as 'valuenorm'"):
            catalogue.find(name)


def test_a_file_without_a_method_is_named(written):
    written("class More:\n    keep: int = 1\n")
    with pytest.raises(ValueError, match=r"more\.py: expected a class that is made from pruners\.base\.Pruner"):
        catalogue.fields("more")


LOADS_NO_TORCH = """
import sys, debias.names, pruners.parts.budget, pruners.catalogue
for name in pruners.catalogue.names():
    assert pruners.catalogue.fields(name) and pruners.catalogue.title(name)
assert debias.names.method("PDrop") == "pyramiddrop"
loaded = {"torch", "numpy", "transformers"} & set(sys.modules)
assert not loaded, loaded
"""


def test_names_and_fields_load_no_torch():
    done = subprocess.run([sys.executable, "-c", LOADS_NO_TORCH], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


def test_public_names_are_there_when_they_are_asked_for():
    code = (
        "import sys, debias, pruners\n"
        "for package in (debias, pruners):\n"
        "    assert set(package.__all__) <= set(dir(package))\n"
        "    assert 'torch' not in sys.modules or package is pruners\n"
        "    for name in package.__all__:\n"
        "        thing = getattr(package, name)\n"
        "        home = getattr(thing, '__module__', thing.__name__)\n"
        "        assert home.startswith(package.__name__ + '.'), name\n"
        "from debias import *\nfrom pruners import *\n"
        "try:\n    debias.nothing\nexcept AttributeError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout == "module 'debias' has no attribute 'nothing'\n", done.stderr


def test_a_modules_file_is_known_before_its_package_is_imported(monkeypatch):
    home = Path(methods.__file__).parent
    monkeypatch.delitem(sys.modules, "pruners.methods")
    assert path_of("pruners.methods.fastv") == home / "fastv.py"
    assert path_of("pruners.methods") == home / "__init__.py"
