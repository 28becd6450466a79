"""Following a page of the docs to the letter, in a copy of the repository."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def blocks(page, language):
    """What a page shows in one language, without the indentation of a list that it stands in."""
    found = re.findall(rf"( *)```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.S)
    return [re.sub(rf"(?m)^{indent}", "", block) for indent, block in found]


def copied(folder):
    """A copy of what a new method or family may change, with links to the rest."""
    copy = folder / "copy"
    for name in ("debias", "pruners", "eval", "tiny", "tests", "scripts"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "pyproject.toml", ".gitmodules", "CITATION.cff"):
        shutil.copy(ROOT / name, copy / name)
    for name in ("assets", "docs"):
        (copy / name).symlink_to(ROOT / name)
    return copy


def add_row(copy, page, after):
    """Put the page's row into the README's table, behind the row that starts with the name `after`."""
    (row,) = blocks(page, "markdown")
    readme = copy / "README.md"
    text, times = re.subn(
        rf"(?m)^(\| \[?`?{re.escape(after)}[`\] ].*)$", rf"\1\n{row.strip()}", readme.read_text(encoding="utf-8")
    )
    assert times == 1, f"README.md has {times} rows of {after}"
    readme.write_text(text, encoding="utf-8")


def commands(page):
    """The words of every command of the page's one block, behind the interpreter's name."""
    (shown,) = blocks(page, "bash")
    typed = [shlex.split(command, comments=True) for command in shown.splitlines()]
    return [words[words.index("python") + 1 :] for words in typed]


def followed(folder, *words):
    """The output of a program that starts in a copy of the repository, or its complaint."""
    env = {**os.environ, "PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    quick = ["-p", "no:cacheprovider"] if "pytest" in words else []
    command = [sys.executable, *words, *quick]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def passed(said):
    """How many tests passed, if none failed."""
    assert "failed" not in said
    return int(re.search(r"(\d+) passed", said)[1])
