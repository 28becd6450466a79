"""What the forks' old environments need: old syntax, few imports, no disk on the hot path."""

from __future__ import annotations

import ast
import builtins
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import debias
from debias import names

FOLDER = Path(debias.__file__).parent
FILES = sorted(FOLDER.rglob("*.py"))
ALLOWED = {"torch", "numpy", "debias"}
LATE = {"scipy", "safetensors", "numpy"}  # inside functions only


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_python_3_8_can_read_it(path):
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))
    futures = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    assert futures, "annotations must not be evaluated: the old environments lack the newer types"
    # Outside annotations, the built-in containers cannot be subscripted and types cannot be joined by | in 3.8.
    annotations = {
        id(child)
        for node in ast.walk(tree)
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if part is not None
        for child in ast.walk(part)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and id(node) not in annotations:
            assert node.value.id not in {"list", "dict", "tuple", "set", "frozenset", "type"}, ast.unparse(node)
        if isinstance(node, ast.Call):
            assert "removeprefix" not in ast.unparse(node.func)
            assert all(word.arg != "strict" for word in node.keywords), "zip(strict=) came with 3.10"
            assert all(word.arg not in {"slots", "kw_only"} for word in node.keywords), ast.unparse(node)
        if isinstance(node, ast.ImportFrom) and node.module == "functools":
            assert "cache" not in {alias.name for alias in node.names}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_only_torch_and_numpy_at_import(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            modules = [node.module]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        for module in {module.split(".")[0] for module in modules} - set(sys.stdlib_module_names):
            assert module in (ALLOWED if node in tree.body else ALLOWED | LATE), f"{path.name} imports {module}"


def test_importing_it_imports_nothing_heavy():
    heavy = {"scipy", "safetensors", "transformers", "tomllib"}
    code = f"import sys, torch; import debias; print(*(set(sys.modules) & {heavy}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=FOLDER.parent)
    assert done.stdout.strip() == ""


def test_the_package_lists_its_names_and_keeps_what_was_asked_for(monkeypatch):
    listed = dir(debias)
    assert listed == sorted(set(listed))
    assert {*debias.__all__, "core", "__name__"} <= set(listed)
    assert not [name for name in listed if "." in name]
    monkeypatch.delitem(vars(debias), "Trend", raising=False)
    first = debias.Trend
    assert vars(debias)["Trend"] is first


def test_a_warm_call_never_touches_the_disk(monkeypatch):
    span, score = debias.Span(35, (24, 24), size=(640, 360)), torch.rand(576)
    with debias.using("both", [span], benchmark="gqa"):
        first = debias.rescore(score, method="himap")

        def refuse(*args, **kwargs):
            raise AssertionError(f"opened {args}")

        monkeypatch.setattr(builtins, "open", refuse)
        monkeypatch.setattr("os.stat", refuse)
        monkeypatch.setattr("io.open", refuse)
        assert torch.equal(debias.rescore(score, method="himap"), first)


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        (names.method, "FastV", "fastv"),
        (names.method, "PDrop", "pyramiddrop"),
        (names.method, "Pyramid-Drop", "pyramiddrop"),
        (names.method, "SparseVLMs", "sparsevlm"),
        (names.method, "PruMerge+", "prumergeplus"),
        (names.method, "illava-vit", "illava"),
        (names.benchmark, "MME", "mme"),
        (names.benchmark, "mm-vet", "mmvet"),
        (names.benchmark, "MMBench-CN", "mmbench_cn"),
        (names.benchmark, "mmbench_cn", "mmbench_cn"),
        (names.benchmark, "SQA", "scienceqa"),
        (names.benchmark, "RefCOCO+", "refcoco+"),
        (names.benchmark, "refcoco", "refcoco"),
        (names.arm, "after", "both"),
    ],
)
def test_names_are_normalised_once(kind, given, expected):
    assert kind(given) == expected


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        *((kind, given) for kind in (names.benchmark, names.arm) for given in ("", "nothing", None, 5)),
        *((names.method, given) for given in ("", " - ", None, 5)),
    ],
)
def test_unknown_names_say_what_is_known(kind, given):
    with pytest.raises(ValueError, match=f"{given!r}") as caught:
        kind(given)
    assert kind.__name__ in str(caught.value)


def test_every_name_is_its_own_normal_form():
    for kind, known in ((names.benchmark, names.BENCHMARKS), (names.arm, names.ARMS)):
        assert [kind(name) for name in known] == list(known)
        assert [kind(name.upper()) for name in known] == list(known)


def test_the_names_that_commands_and_files_use():
    assert names.BENCHMARKS == ("gqa", "vqav2", "vizwiz", "scienceqa", "textvqa", "pope", "mme", "mmbench",
                                "mmbench_cn", "mmvet", "tgif", "msvd", "msrvtt", "refcoco", "refcoco+",
                                "refcocog")  # fmt: skip
    assert names.ARMS == ("none", "trend", "padding", "both")
    spelled = ["p-drop", "SparseVLMs", "iLLaVA ViT"]
    assert [names.method(name) for name in spelled] == ["pyramiddrop", "sparsevlm", "illava"]
    assert {names.benchmark(name) for name in ("SQA", "SciVQA", "ScienceQA-IMG")} == {"scienceqa"}
    assert [names.arm(name) for name in ("paper", "before", "after")] == ["none", "padding", "both"]


@pytest.mark.parametrize(
    "value",
    [debias.Span(0, (2, 2)), debias.Trend.exponential(0.1), debias.Padding(), debias.Debias()],
    ids=lambda value: type(value).__name__,
)
def test_values_do_not_change(value):
    for name in vars(value):
        with pytest.raises(AttributeError):
            setattr(value, name, None)


def test_a_span_equals_itself_alone():
    """Its tensors have no single answer to whether they are equal."""
    one, other = (debias.Span(0, (2, 2), index=torch.tensor([0, 1])) for _ in range(2))
    assert one == one
    assert one != other
    assert len({one, other}) == 2
