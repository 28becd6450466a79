"""The pages that show how to add things are run as they stand."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pruners
from pruners import methods

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.S)


@pytest.fixture
def llava(builders):
    return builders.model("llava")


@pytest.fixture
def valuenorm(tmp_path, monkeypatch):
    """The page's method, as one more file of the package."""
    (tmp_path / "valuenorm.py").write_text(blocks("new_method.md", "python")[0], encoding="utf-8")
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    yield
    sys.modules.pop("pruners.methods.valuenorm", None)
    vars(methods).pop("valuenorm", None)


def test_new_method(llava, valuenorm):
    image = [llava.config.image_token_id] * 36
    inputs = {"input_ids": torch.tensor([[5, 6, *image, 7, 8, 9]]), "pixel_values": torch.randn(1, 3, 84, 84)}
    assert "valuenorm" in pruners.names()
    with torch.no_grad():
        plain = llava.generate(**inputs, max_new_tokens=2, do_sample=False)
        shown = {"model": llava, "inputs": {**inputs, "max_new_tokens": 2, "do_sample": False}}
        exec(blocks("new_method.md", "python")[1], shown)  # 128 of 36 tokens: all stay
        assert shown["trace"].kept[0][0].tolist() == list(range(36))
        with pruners.make("valuenorm", keep=36)(llava):
            assert torch.equal(llava.generate(**inputs, max_new_tokens=2, do_sample=False), plain)
        with pruners.make("valuenorm", keep=7, layer=1)(llava) as trace:
            llava(**inputs)
    score = trace.scores[0][0][0]
    assert trace.kept[0][0].tolist() == sorted(score.topk(7).indices.tolist())
    assert score.std() > 0


def followed(folder, *words):
    """The output of a program that starts in a copy of the repository, or its complaint."""
    env = {**os.environ, "PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.long
def test_a_method_that_is_added_as_the_page_says_needs_nothing_else(tmp_path):
    root, copy = DOCS.parent, tmp_path / "copy"
    for name in ("debias", "pruners", "eval", "tiny", "tests", "scripts"):
        shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "pyproject.toml", ".gitmodules", "CITATION.cff"):
        shutil.copy(root / name, copy / name)
    for name in ("assets", "docs"):
        (copy / name).symlink_to(root / name)
    run = "-m eval run --method valuenorm --keep 40 --benchmarks pope --limit 2 --out runs/one --arms none,both"
    run = f"{run} --trend online --device cpu".split()
    with pytest.raises(AssertionError, match="unknown method 'valuenorm'"):
        followed(copy, *run, "--dry-run")

    (copy / "pruners" / "methods" / "valuenorm.py").write_text(blocks("new_method.md", "python")[0], encoding="utf-8")
    (line,) = re.findall(r"```markdown\n +(.*)\n", (DOCS / "new_method.md").read_text(encoding="utf-8"))
    readme = (copy / "README.md").read_text(encoding="utf-8")
    (copy / "README.md").write_text(re.sub(r"(?m)^(\| \[`fastv`\].*)$", rf"\1\n{line}", readme), encoding="utf-8")
    (shown,) = blocks("new_method.md", "bash")
    commands = [shlex.split(command, comments=True) for command in shown.splitlines()]
    said = [followed(copy, *words[words.index("python") + 1 :], *quick(words)) for words in commands]
    assert int(re.search(r"(\d+) passed", said[-1])[1]) > 60
    assert "failed" not in said[-1]

    followed(copy, *run, "--dry-run")
    followed(copy, *run)
    rows = (copy / "runs" / "one" / "pope").glob("*.jsonl")
    assert [len(path.read_text(encoding="utf-8").splitlines()) for path in rows] == [6, 6]  # POPE asks in three ways


def quick(words):
    """A plug-in of the outer tests' that keeps a cache has nothing to keep here."""
    return ["-p", "no:cacheprovider"] if "pytest" in words else []


def test_the_page_names_what_exists():
    page = (DOCS / "new_method.md").read_text(encoding="utf-8")
    paths = re.findall(r"`((?:pruners|tests)/[\w/.]+\.py)`", page)
    assert "pruners/methods/valuenorm.py" in paths
    for path in paths:
        if path != "pruners/methods/valuenorm.py":
            assert (DOCS.parent / path).is_file(), path
    from pruners.base import Pruner
    from pruners.view import View

    for name in ["cuts", "score", "select", "merge", "start", "counts", "positions", "shrink_cache", "reads", "views"]:
        assert f"`{name}" in page
        assert hasattr(Pruner, name), name
    shown = re.findall(r"`view\.(\w+)", page)
    assert shown
    for name in shown:
        assert hasattr(View, name) or name in View.__dataclass_fields__, name
