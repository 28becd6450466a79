"""The front page tells the truth: its code runs, its links lead somewhere, its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from eval.cli import COMMANDS, installed
from pruners import names

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_library_examples_run(tmp_path, monkeypatch):
    from tiny import world

    monkeypatch.chdir(ROOT)
    photo = tmp_path / "photo.png"
    world.draw(world.scene(2 * 10**9)).save(photo)
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda path: real(photo) if path == "photo.jpg" else real(path))
    there: dict = {}
    exec(CODE[0], there)
    assert isinstance(there["answer"][0], str)
    assert len(there["trace"].kept[0][0]) == 36  # a quarter of 144
    there["score"] = before = torch.rand(2, 576)
    exec(CODE[1], there)
    assert there["score"].shape == before.shape
    assert not torch.equal(there["score"], before)
    assert len(CODE) == 2


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_commands_exist(page):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"python -m eval (\w+)", text):
        assert name in installed(), f"{page.name} names the command {name}"
    for script in re.findall(r"bash ((?:scripts/)?\w+\.sh)", text):
        assert (ROOT / script).exists(), f"{page.name} names {script}"


def test_every_method_and_command_is_on_the_page():
    assert set(re.findall(r"\(pruners/(\w+)\.py\)", README)) == set(names())
    assert set(COMMANDS) == set(installed())
