"""The patches as texts: our lines alone, each of them sound, and series.toml telling the truth about them."""

from __future__ import annotations

import ast
import configparser
import importlib.util
import inspect
import re
import subprocess
from pathlib import Path

import pytest

import debias
from debias import core
from eval.forks.setup import ROOT, setups
from pruners import catalogue

PATCHES = sorted((ROOT / "patches").glob("*.patch"))
BLOB = r"[0-9a-f]{40}"


def parse(text):
    """{file: (blob before, blob after, [(upstream line, inserted line)])}; anything but an insertion is an error."""
    found, lines = {}, iter(text.splitlines())
    for line in lines:
        head = re.fullmatch(r"diff --git a/(\S+) b/(\S+)", line)
        if head:
            assert head[1] == head[2]
            ids = re.fullmatch(rf"index ({BLOB})\.\.({BLOB}) 100(644|755)", next(lines))
            assert ids, "the index line carries both whole blob ids"
            assert next(lines) == f"--- a/{head[1]}"
            assert next(lines) == f"+++ b/{head[1]}"
            inserted = found.setdefault(head[1], (ids[1], ids[2], []))[2]
            continue
        hunk = re.fullmatch(r"@@ -(\d+),0 \+(\d+)(?:,(\d+))? @@", line)
        assert hunk, f"neither a header nor a hunk without context: {line!r}"
        assert int(hunk[2]) == int(hunk[1]) + len(inserted) + 1, "line numbers that do not add up"
        for _ in range(int(hunk[3] or 1)):
            body = next(lines)
            assert body.startswith("+"), f"a patch inserts and nothing else: {body!r}"
            inserted.append((int(hunk[1]), body[1:]))
    return found


def inserted(patch):
    return [line for _, _, lines in parse(patch.read_text()).values() for _, line in lines]


def test_there_is_a_patch_for_every_section_and_a_section_for_every_patch():
    assert [patch.stem for patch in PATCHES] == sorted(name for name, section in setups().items() if not section.patch)
    assert {section.patch for section in setups().values()} - {None} <= {patch.stem for patch in PATCHES}


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_a_patch_inserts_fewer_than_fifteen_lines_and_quotes_nothing(patch):
    assert 0 < len(inserted(patch)) < 15


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_every_inserted_line_is_python_at_its_indentation(patch):
    for line in inserted(patch):
        indent = len(line) - len(line.lstrip(" "))
        assert indent % 4 == 0
        assert "\t" not in line
        nest = "".join(f"{' ' * depth}if x:\n" for depth in range(0, indent, 4))
        ast.parse(nest + line + "\n")


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_every_call_fits_the_signature_that_debias_has(patch):
    calls = []
    for line in inserted(patch):
        for node in ast.walk(ast.parse(line.strip())):
            if isinstance(node, ast.Call) and getattr(getattr(node.func, "value", None), "id", "") == "debias":
                inspect.signature(getattr(debias, node.func.attr)).bind(
                    *node.args, **{word.arg: word.value for word in node.keywords}
                )
                said = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
                assert said["method"] == patch.stem
                assert patch.stem in catalogue.names()
                assert said.get("role", "select") in core.ROLES
                calls.append(node.func.attr)
    assert "rescore" in calls
    assert "kept" in calls


def test_series_says_what_the_patches_do():
    for name, section in setups().items():
        assert bool(section.files) == (section.patch is None)
        if section.patch:
            continue
        parsed = parse((ROOT / "patches" / f"{name}.patch").read_text())
        assert [file["name"] for file in section.files] == list(parsed)
        for file in section.files:
            before, after, lines = parsed[file["name"]]
            assert (file["before"], file["after"]) == (before, after)
            assert [line["after"] for line in file["lines"]] == [number for number, _ in lines]
            assert all(line["why"].strip() for line in file["lines"])


def test_series_names_submodules_commits_environments_and_paths_that_exist():
    modules = configparser.ConfigParser()
    modules.read_string(re.sub(r"^\s+", "", (ROOT / ".gitmodules").read_text(), flags=re.MULTILINE))
    for section in setups().values():
        module = modules[f'submodule "third_party/{section.submodule}"']
        assert module["path"] == f"third_party/{section.submodule}"
        assert re.fullmatch(rf"https://github\.com/[\w-]+/{section.submodule}\.git", module["url"])
        assert module["shallow"] == "true"
        assert (ROOT / "patches" / f"requirements-{section.environment}.txt").is_file()
        assert re.fullmatch(BLOB, section.commit)
        own = {f"third_party/{folder}" for folder in (section.submodule, section.needs) if folder}
        assert {"/".join(part.split("/")[:2]) for part in section.path} <= own


def listed(*paths):
    out = subprocess.run(["git", "-C", ROOT, "ls-files", "-s", *paths], capture_output=True, text=True, check=False)
    if out.returncode or not out.stdout:
        pytest.skip("not a git checkout")
    return [line.split(maxsplit=3) for line in out.stdout.splitlines()]


def test_third_party_holds_gitlinks_and_one_page_of_ours():
    entries = {path: (mode, commit) for mode, commit, _, path in listed("third_party")}
    assert entries.pop("third_party/README.md")[0] == "100644"
    assert {mode for mode, _ in entries.values()} == {"160000"}
    for section in setups().values():
        assert entries[f"third_party/{section.submodule}"][1] == section.commit
    page = (ROOT / "third_party" / "README.md").read_text()
    for path, (_, commit) in entries.items():
        assert f"| {Path(path).name} |" in page
        assert commit[:7] in page


@pytest.mark.parametrize("file", sorted((ROOT / "patches").glob("requirements-*.txt")), ids=lambda file: file.stem)
def test_requirements_are_pinned(file):
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r'[\w-]+==[\d.]+(; python_version < "[\d.]+")?', line) for line in lines)
    assert any(line.startswith("torch==") for line in lines)


@pytest.mark.parametrize("script", [*sorted((ROOT / "scripts").glob("*.sh")), ROOT / "setup.sh"], ids=lambda s: s.name)
def test_scripts_name_files_and_modules_that_exist(script):
    text = re.sub(r"^\s*#.*$", "", script.read_text(), flags=re.MULTILINE)
    paths = re.findall(r"(?<![\w./$}-])((?:scripts|patches|docs|assets|tests)/[\w./-]+\.\w+)", text)
    modules = re.findall(r"-m ((?:eval|tiny)(?:\.\w+)*)", text)
    assert paths or modules or "/env.sh" in text or script.name == "env.sh"  # scripts reach their neighbours by dirname
    for path in paths:
        assert (ROOT / path).exists(), path
    for module in modules:
        assert importlib.util.find_spec(module), module
