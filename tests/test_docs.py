"""The pages tell the truth: commands parse with the parsers they are for, files and flags exist, the site builds, and
the first hour runs from top to bottom."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from debias import names
from eval import cli
from eval.commands import flags
from eval.core.fields import parse_fields

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
WHERE = ("*.md", "docs/*.md", "examples/*.md", "assets/figures/*.md")
PAGES = sorted({page for where in WHERE for page in ROOT.glob(where)})
STARTS = ("python", ".venv/bin/", "debias", "bash", "torchrun", "srun", "mpirun", "accelerate", "deepspeed", "pip",
          "pytest", "nox", "sbatch", "git")  # fmt: skip
# Words in capitals; others are files.
STANDS_FOR = {"N": "1", "B": "1", "METHOD": "fastv", "BENCHMARK": "pope"}
# Flags of other programs.
FOREIGN = {"--nproc-per-node", "--nnodes", "--ntasks", "--array", "--gres", "--gpus", "--model_args", "--tasks",
           "--num_gpus", "--module", "--num_processes", "--include_path", "--nproc", "--recursive", "--batch_size",
           "--output_path", "--force_simple", "--work-dir", "--hf-overrides", "--enforce-eager",
           "--max-model-len", "--trust-request-mm-kwargs"}  # fmt: skip


def commands(text):
    """(command, whether it stands in a block) of a page or a docstring."""
    found = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S):
        if language in ("", "bash", "sh", "console"):
            found += [(line, True) for line in lines(block) if language or line.startswith(STARTS)]
    for code in re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", prose(text)):
        if re.match(r"(\.venv/bin/)?python -m \w|bash [\w/]+\.sh|debias [a-z]|torchrun |pip install ", code):
            found.append((" ".join(code.split()), False))
    return found


def prose(text):
    """The page without its blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def lines(block):
    """Commands of a block: continued lines joined, comments and explanations behind two spaces left out."""
    joined = re.sub(r"\\\n\s*", "", block)
    for line in joined.splitlines():
        line = re.split(r"\s#\s|\s{3,}", line.strip().removeprefix("$ "))[0]
        yield from (part.strip() for part in re.split(r"&&|;", line) if part.strip() and not part.startswith("#"))


def ids(pair):
    return f"{pair[0].name}: {pair[1][:60]}"


ALL = [(page, *one) for page in PAGES for one in commands(page.read_text(encoding="utf-8"))]


def helped():
    """The examples of the help pages."""
    for name in cli.COMMANDS:
        parser = cli.build(name)[0]
        shown = parser.description.replace("%%", "%").split("examples:\n")[1].split("\n\n")[0]
        yield from ((Path(f"help of {name}"), line, True) for line in lines(shown))


def checked(command, whole):
    """Raises AssertionError unless the command could be typed as it stands."""
    command = re.split(r"\s[|>]\s|\s>>\s", command)[0]
    whole = whole and "..." not in command  # which stands for what is left out
    command = command.replace("...", "")
    for given, meant in STANDS_FOR.items():
        command = re.sub(rf"(?<=\s){given}(?=\s|$)", meant, command)
    if found := re.match(r"[A-Z_]+=\$\((.*)\)$", command):
        command = found[1]
    words = shlex.split(re.sub(r"\[[A-Z ]+\]", "", command))
    while re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    program, rest = words[0].removeprefix(".venv/bin/"), words[1:]
    if program in (
        "torchrun",
        "srun",
        "accelerate",
        "deepspeed",
        "mpirun",
    ):  # they start -m eval, or a python that does
        module = next(word for word in ("-m", "--module") if word in rest)
        program, rest = "python", ["-m", *rest[rest.index(module) + 1 :]]
    if program == "python" and rest[:1] == ["-m"]:
        module, rest = rest[1], rest[2:]
        if module == "eval":
            return typed(rest, whole)
        if module in ("pip", "pytest", "mkdocs", "ruff", "mypy", "pre_commit", "build", "twine"):
            program = module
        else:
            if module.startswith("PyramidDrop"):
                return None  # the release's
            assert importlib.util.find_spec(module), f"no module {module}"
            source = source_of(module)
            shared = re.findall(r"^from (tiny\.[\w.]+) import", source, re.M)  # may define some of its flags
            return has_flags(rest, "\n".join([source, *map(source_of, shared)]), module)
    if program == "debias":
        return typed(rest, whole)
    if program in ("bash", "sbatch"):
        rest = rest[next((n for n, word in enumerate(rest) if word.endswith(".sh")), 0) :]
        script = ROOT / rest[0]
        assert script.is_file(), f"no script {rest[0]}"
        text = script.read_text(encoding="utf-8")
        passed = re.search(r'-m eval (\w[^\n"]*?) "\$(?:@|\{@)', text)
        return typed([*passed[1].split(), *rest[1:]], whole) if passed else has_flags(rest[1:], text, rest[0])
    if program == "pip":
        for extras in re.findall(r"(?:\.|debiasing)\[([\w,]+)\]", command):
            known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            assert set(extras.split(",")) <= set(known), command
        return None
    if program == "pytest":
        return exist([word for word in rest if "/" in word])
    if program == "python":
        return exist(rest[:1])
    if program == "nox":
        sessions = re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text(encoding="utf-8"), re.M)
        assert {re.split(r"[-(]", word)[0] for word in rest[1:]} <= set(sessions), command
        return None
    assert program in ("git", "mkdocs", "pre-commit", "build", "twine"), f"what is {program!r}?"
    return None


def typed(words, whole):
    """An evaluation's command line, down to the method's own flags and the names it is given."""
    if not words or words[0].startswith("-"):
        return
    assert words[0] in cli.COMMANDS, f"no command {words[0]}"
    parser = cli.build(words[0])[0]
    if not whole:  # in the middle of a sentence: only a part of a command, maybe
        known = {*parser._option_string_actions, *(parser.get_default("takes_fields") or set)()}
        assert {word.split("=")[0].split(".")[0] for word in words if word.startswith("--")} <= known
        return
    try:
        args = cli.parse(parser, words[1:])
    except SystemExit as stop:
        if stop.code:
            raise ValueError(f"{shlex.join(words)} is not understood") from None
        return
    given = vars(args)
    for method in flags.methods(given["method"]) if given.get("method") else ():
        if given.get("fields") and words[0] != "reproduce":
            parse_fields(method, given["fields"])
    for arm in (given.get("arms") or "").split(","):
        assert not arm or arm == "unpruned" or names.arm(arm)
    for benchmark in (given.get("benchmarks") or "").split(","):
        assert not benchmark or names.benchmark(benchmark)


def source_of(module):
    return Path(importlib.util.find_spec(module).origin).read_text(encoding="utf-8")


def has_flags(words, source, name):
    for word in words:
        flag = word.split("=")[0]
        if flag.startswith("--") and name != "scripts/test.sh":
            assert re.search(rf"{re.escape(flag)}\b", source), f"{name} has no {flag}"
    exist([word for word in words if re.match(r"(assets|docs|scripts|tests)/", word)])


def exist(paths):
    for path in paths:
        assert list(ROOT.glob(path.rstrip("/"))), f"no file {path}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_the_pages_can_be_typed(page):
    for where, command, whole in ALL:
        if where == page:
            try:
                checked(command, whole)
            except (AssertionError, ValueError) as error:
                raise AssertionError(f"{page.name}: {command}\n{error}") from error


def test_examples_of_the_help_pages_can_be_typed():
    for where, command, whole in helped():
        try:
            checked(command, whole)
        except (AssertionError, ValueError) as error:
            raise AssertionError(f"{where}: {command}\n{error}") from error


WRONG = """python -m eval rum
python -m eval run --kep 3
python -m eval run --arms bothh
python -m eval compare
python -m tiny.nothing
bash scripts/run_fastvv.sh
bash scripts/run_fastv.sh --seed 3
bash setup.sh --fork
pip install .[nothing]
pytest tests/nothing.py
frobnicate"""


def test_the_check_finds_what_is_wrong():
    for wrong in WRONG.splitlines():
        with pytest.raises((AssertionError, ValueError)):
            checked(wrong, True)
    checked("python -m eval run --method fastv --keep N --layer 3", True)
    checked("torchrun --nproc-per-node 8 -m eval score ...", True)
    assert commands("`python -m eval\nfit --each` and\n```bash\na b \\\n  c   # d\n```\n") == [
        ("a b c", True),
        ("python -m eval fit --each", False),
    ]


OURS = r"(?:docs|eval|pruners|debias|tiny|scripts|tests|assets|patches|examples|\.github)"
ELSEWHERE = re.compile(
    r"pruners/methods/(valuenorm|NAME)\.py|pruners/models/(vipllava|MODEL_TYPE)\.py"  # to be written
    r"|eval/benchmarks/NAME\.py"
    r"|scripts/(FastV|HiMAP|TokenCarve|PyramidDrop|SparseVLMs)/.*|assets/radar\.jpg"  # of the paper's release
    r"|.*[<*{].*"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    for code in re.findall(r"`([^`\n]+)`", prose(text)):
        if found := re.fullmatch(rf"({OURS}/[\w./+<>*{{}}-]+?)(?::\d+)?/?", code):
            assert ELSEWHERE.fullmatch(found[1]) or (ROOT / found[1]).exists(), f"{page.name} names {found[1]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"(?ms)^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"))  # what a block shows is no link
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target:
            there = (page.parent / target.replace("\\", "")).resolve()
            assert there.exists(), f"{page.name} links to {target}, which is not there"
            assert there.is_relative_to(ROOT)


def test_the_faq_names_the_transformers_that_is_needed():
    needed = re.search(r'"transformers>=([\d.]+)', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))[1]
    assert f"An unmodified transformers, {needed} or newer" in (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")


def known_flags():
    found = set(FOREIGN)
    for name in cli.COMMANDS:
        parser = cli.build(name)[0]
        found |= {*parser._option_string_actions, *(parser.get_default("takes_fields") or set)()}
    patterns = ("*.sh", "scripts/*", "tiny/**/*.py", "pruners/**/*.py", "eval/**/*.py",
                "tests/**/conftest.py", "tests/*/__main__.py", "noxfile.py", "examples/*.py")  # fmt: skip
    for path in (path for pattern in patterns for path in ROOT.glob(pattern)):
        found |= set(re.findall(r"--[a-z][\w-]+", path.read_text(encoding="utf-8")))
    return found


def test_flags_that_a_page_names_exist():
    known, seen = known_flags(), set()
    for page in PAGES:
        for code in re.findall(r"`([^`]+)`", prose(page.read_text(encoding="utf-8"))):
            for flag in re.findall(r"(?<![\w-])--[a-z][\w-]+", code):
                assert flag in known, f"{page.name} names {flag}"
                seen.add(flag)
    assert {"--method", "--share-prefix"} <= seen


def test_every_page_is_in_the_navigation():
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)
    nav = json.dumps(yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)["nav"])
    for page in PAGES:
        assert f'"{page.relative_to(ROOT).as_posix()}"' in nav, f"{page.name} is not in the navigation"


@pytest.mark.long
def test_the_site_builds_without_a_warning(tmp_path):
    for needed in ("material", "mkdocstrings_handlers.python"):
        pytest.importorskip(needed, reason="needs the packages of the extra docs (pip install .[docs])")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    front = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert 'href="pruners/methods/fastv.py.html"' in front
    api = (tmp_path / "docs" / "api.html").read_text(encoding="utf-8")
    for anchor in ("eval.Settings", "debias.Debias.paper", "pruners.Pruner.matched", "pruners.models.Adapter.load"):
        assert f'id="{anchor}"' in api
    assert "<code>keep</code>: tokens to keep" in api  # what a comment says about a field
    assert "<code>workers</code>: threads that read pictures ahead" in api  # what a flag says about it
    assert 'src="assets/figures/selection-frequency.png"' in front
    for path in tmp_path.rglob("*.html"):  # nothing is fetched from elsewhere
        assert not re.search(r'<(?:script|link|img)[^>]*(?:src|href)="https?://', path.read_text(encoding="utf-8")), (
            path
        )


@pytest.mark.parametrize("form", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.name)
def test_forms_are_well_formed(form):
    read = yaml.safe_load(form.read_text(encoding="utf-8"))
    if form.name != "config.yml":
        assert {"name", "description", "body"} <= read.keys()
        fields = [field for field in read["body"] if field["type"] != "markdown"]
        assert len({field["id"] for field in fields}) == len(fields) > 0
        assert all(field["attributes"]["label"] for field in fields)


def test_hooks_run_what_is_there():
    read = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    for hook in read["repos"][0]["hooks"]:
        exist([word for word in hook["entry"].split() if word.startswith(("tests/", "scripts/"))])
        assert hook["language"] == "system"  # nothing fetched
    assert [repo["repo"] for repo in read["repos"]] == ["local"]


@pytest.mark.long
def test_the_first_hour(tmp_path, monkeypatch, capsys):
    """Every command of docs/first-hour.md, in order, as it stands, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    values = {}
    for _, command, _ in [one for one in ALL if one[0].name == "first-hour.md" and one[2]]:
        for name, value in values.items():
            command = command.replace(f'"${name}"', shlex.quote(value))
        if found := re.fullmatch(r"([A-Z]+)=\$\(python -m tiny\.benchmarks\)", command):
            from tiny import benchmarks

            values[found[1]] = str(benchmarks.ensure())
            continue
        words = shlex.split(command)
        assert words[:3] == ["python", "-m", "eval"], command
        status = cli.main(words[3:])
        shown = capsys.readouterr()
        assert status == 0, f"{command}\n{shown.err}"
    made = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {"runs/first/report.html", "runs/first/table.md", "runs/diagnosis.json", "runs/mine.toml", "runs/mine.svg",
            "runs/upload.xlsx", "runs/first/figures/scores.png", "runs/figures/attention-maps.png"} <= made  # fmt: skip
