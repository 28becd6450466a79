"""How the house is built: imports run eval -> pruners -> debias, never in a circle, and no file grows too long."""

from __future__ import annotations

import ast
import builtins
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from pruners.models import families

ROOT = Path(__file__).parents[1]
BELOW = {"debias": set(), "pruners": {"debias"}, "tiny": set(), "eval": {"debias", "pruners", "tiny"}}
LONGEST = 400


def files(*folders):
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def dotted(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(nodes, known=()):
    """Every module that these statements import by name; `from a import b` is a.b where that is a `known` module."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"a relative import in line {node.lineno}"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module


@pytest.mark.parametrize("package", BELOW)
def test_imports_only_go_down(package):
    assert files(package)
    for path in files(package):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        used = {module.split(".")[0] for module in imports(ast.walk(tree))} & set(BELOW)
        assert used <= BELOW[package] | {package}, (
            f"{path.relative_to(ROOT)} imports {used - BELOW[package] - {package}}"
        )


# Where modules of ours are imported in functions: what a command does once its flags are read (help pages stay quick
# and load no torch), and what only a package that need not be there can do.
LATE = ("eval/commands/", "eval/core/embedded.py", "tiny/")


def test_no_module_waits_for_itself():
    known = {dotted(path): ast.parse(path.read_text(encoding="utf-8")) for path in files(*BELOW)}
    # Every import counts, also one in a function or for the type checker alone.
    waits = {name: {*imports(ast.walk(tree), known)} & set(known) for name, tree in known.items()}
    done, open_ = set(), []

    def visit(name):
        assert name not in open_, f"a circle of imports: {' -> '.join([*open_[open_.index(name) :], name])}"
        if name not in done:
            open_.append(name)
            for module in sorted(waits[name]):
                visit(module)
            open_.pop()
            done.add(name)

    for name in sorted(known):
        visit(name)


@pytest.mark.parametrize("package", BELOW)
def test_modules_of_ours_are_imported_at_the_top(package):
    for path in files(package):
        if str(path.relative_to(ROOT)).startswith(LATE):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inner = [node for kind in ast.walk(tree) if isinstance(kind, ast.FunctionDef) for node in ast.walk(kind)]
        late = {module for module in imports(inner) if module.split(".")[0] in BELOW}
        assert not late, f"{path.relative_to(ROOT)} imports {late} in a function"


@pytest.mark.parametrize("folder", [*BELOW, "tests"])
def test_no_file_is_too_long(folder):
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files(folder)}
    long = {str(path.relative_to(ROOT)): length for path, length in lengths.items() if length > LONGEST}
    assert not long, f"more than {LONGEST} lines: {long}"


# Folders that may show more, and why.
MOST_ENTRIES = 16
CATALOGUES = {
    "eval": (18, "nearly all of them rooms"),
    "eval/benchmarks": (None, "one file a benchmark"),
    "eval/commands": (None, "one file a command"),
    "pruners/methods": (None, "one file a method"),
}


@pytest.mark.parametrize("package", BELOW)
def test_no_folder_has_too_many_entries(package):
    entries = {}
    for file in (path for path in (ROOT / package).rglob("*") if path.is_file() and path.suffix != ".pyc"):
        inner = file.relative_to(ROOT).parts
        for depth in range(1, len(inner)):
            entries.setdefault("/".join(inner[:depth]), set()).add(inner[depth])
    most = {folder: CATALOGUES.get(folder, (MOST_ENTRIES, ""))[0] for folder in entries}
    full = {folder: len(held) for folder, held in entries.items() if len(held) > (most[folder] or len(held))}
    assert entries
    assert not full, f"more than {MOST_ENTRIES} entries: {full}; give what belongs together a folder of its own"


def test_help_and_completion_load_no_torch():
    """Every command's help page and the completion of all of them, in one process that must stay without torch."""
    code = """
import sys
from collections import defaultdict
from eval.cli import COMMANDS, main
heavy = {"torch", "transformers", "matplotlib"}
for words in ([], ["--help"], *([name, "--help"] for name in COMMANDS), ["completion", "bash"]):
    main(words)
    if loaded := heavy & {*sys.modules}:
        sys.exit(f"{' '.join(words)} loads {', '.join(sorted(loaded))}")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-300:]


# Where a family may be named: what speaks the authors' own layouts, the published wordings of RefCOCO's questions, the
# one real class that random weights are drawn for, and what is made of vLLM's own classes, one family each.
NAMED = ("eval/forks/", "eval/benchmarks/refcoco.py", "eval/speed/drawn.py", "eval/harnesses/vllm/")


def test_no_model_family_is_named_in_eval():
    known = {*families()}
    for path in files("eval"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        words |= {module.removeprefix("pruners.models.") for module in imports(ast.walk(tree))}
        if not str(path.relative_to(ROOT)).startswith(NAMED):
            assert not words & known, f"{path.relative_to(ROOT)} asks for {words & known}; its adapter should answer"


def test_commands_are_imported_by_nothing_and_share_only_their_flags():
    known = {dotted(path) for path in files("eval")}
    for path in files("eval"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        used = {module for module in imports(ast.walk(tree), known) if module.startswith("eval.commands.")}
        shared = {"eval.commands.flags"} if path.parent.name == "commands" else set()
        assert used <= shared, f"{path.relative_to(ROOT)} imports {used - shared}"


def classes():
    """name -> every public class of that name, as (file, its statement)."""
    known = defaultdict(list)
    for path in files(*BELOW):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                known[node.name].append((str(path.relative_to(ROOT)), node))
    return known


def test_no_two_public_classes_share_a_name():
    assert not {name: [path for path, _ in places] for name, places in classes().items() if len(places) > 1}


def methods(node):
    return {part.name: part for part in node.body if isinstance(part, ast.FunctionDef)}


def described_above(name, node, known):
    """Whether a method is described where it is first declared: in another class of ours, or by a library."""
    for base in node.bases:
        base = ast.unparse(base).partition("[")[0].rpartition(".")[2]
        if base not in known and base not in {"Protocol", "ABC", "NamedTuple", *vars(builtins)}:
            return True
        for _, above in known.get(base, ()):
            if name in methods(above) and ast.get_docstring(methods(above)[name]):
                return True
            if described_above(name, above, known):
                return True
    return False


def is_part_of_another(function):
    """Setters belong to their property, and overloads to what they overload."""
    return any(ast.unparse(decorator).endswith(("setter", "overload")) for decorator in function.decorator_list)


def undescribed(path, known):
    """Public classes, their public methods, and public functions without a docstring."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if (
            not isinstance(node, ast.ClassDef | ast.FunctionDef)
            or node.name.startswith("_")
            or is_part_of_another(node)
        ):
            continue
        if not ast.get_docstring(node):
            yield node.name
        for name, method in methods(node).items() if isinstance(node, ast.ClassDef) else ():
            bare = not (name.startswith("_") or ast.get_docstring(method) or is_part_of_another(method))
            if bare and not described_above(name, node, known):
                yield f"{node.name}.{name}"


def test_every_public_class_and_function_has_a_docstring():
    known = classes()
    bare = [f"{path.relative_to(ROOT)} {name}" for path in files(*BELOW) for name in undescribed(path, known)]
    assert not bare


def test_no_function_has_a_name_that_says_nothing():
    for path in files(*BELOW):
        names = {
            node.name for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)
        }
        assert not names & {"one", "own", "pick", "there"}, path
