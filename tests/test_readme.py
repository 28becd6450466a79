"""The front page tells the truth: its code runs, its tables are complete. Its commands and links: test_docs.py."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import readme
from PIL import Image

from pruners import find, names
from pruners.catalogue import baselines
from pruners.models import families, family, known_checkpoints

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_library_examples_run_as_they_stand(monkeypatch):
    monkeypatch.chdir(ROOT)
    first: dict = {}
    exec(CODE[0], first)
    assert first["answer"] == ["red"]  # and without the padding step what the comment says
    with first["make"]("fastv", keep=0.25)(first["family"].model, first["Debias"](), sizes=first["batch"].sizes):
        said = first["family"].model.generate(**first["batch"].inputs, max_new_tokens=5)
    assert first["family"].decode(said[:, first["batch"].inputs["input_ids"].shape[1] :]) == ["unanswerable"]
    assert len(first["trace"].kept[0][0]) == 36  # a quarter of 144
    second: dict = {}
    exec(CODE[2], second)
    assert second["score"].shape == (576,)
    assert second["score"][0] < second["score"][288]  # padding, and the middle
    assert len(CODE) == 3  # the second one is tested below


def test_the_example_is_a_picture_of_our_own_world():
    from tiny.drawn import world

    with Image.open(ROOT / "assets" / "example.png") as example:
        assert example.convert("RGB").tobytes() == world.draw(world.scene(2_000_007_059)).tobytes()


def test_the_citation_is_the_papers():
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    title = re.search(r"title   = \{(.+)\}", README)
    assert title
    assert title[1] in cited
    people = re.findall(r"given-names: ([\w-]+), family-names: (\w+)", cited)
    authors = " ".join(README.split("author  = {")[1].split("}")[0].split()).split(" and ")
    assert authors == [" ".join(name) for name in people]


def test_the_line_below_the_title_is_true():
    """It stands in for badges: pictures of other sites would be fetched by whoever opens the page."""
    shown = re.findall(r"\*\*\[(.+?)\]", README.splitlines()[2])
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    versions = re.findall(r"Python :: (3\.\d+)", project)
    cited, licence = re.search(r"arXiv:([0-9.]+)", README), re.search(r'^license = "(.+)"', project, re.M)
    assert shown == [f"arXiv {cited[1]}", licence[1], f"Python {versions[0]} to {versions[-1]}"]


def test_every_method_is_in_the_table_with_its_arms_and_links():
    lines = dict(re.findall(r"^\| \[`(\w+)`\]\(pruners/methods/\1\.py\) \|(.*)\|$", README, re.M))
    assert set(lines) == set(names())
    assert len(names()) - len(baselines()) > 20
    assert "- more than twenty pruning methods and " in README
    sources = dict(re.findall(r"url = (https://\S+?/(\w+))\.git", (ROOT / ".gitmodules").read_text(encoding="utf-8")))
    for method, line in lines.items():
        arms, links = line.split("|")[2].strip(), line.split("|")[3]
        assert arms == str(len(find(method).arms())), method
        assert links.strip() == "baseline" or "[paper](https://" in links
        known = [url for url in sources if url.split("/")[-1].lower().rstrip("s") == method]
        assert all(f"[source]({url})" in links for url in known), method


def test_every_family_and_known_checkpoint_is_in_the_table():
    table = README.split("## Models")[1].split("## ")[0]
    assert sum(line.startswith("| ") for line in table.splitlines()) == len(families()) + 1
    assert sorted(re.findall(r"`(\w[\w-]+/[\w.-]+)`", table)) == sorted(known_checkpoints())


def test_the_table_of_models_says_what_works_where():
    """Each line's clips and methods, as the family of its first checkpoint has them."""
    table = README.split("## Models")[1].split("## ")[0]
    lines = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("| ") and "`" in line]
    said = {re.findall(r"`([^`]+)`", line[1])[0]: (line[3].strip(), line[5].strip()) for line in lines}
    towers = [name for name in names() if find(name).reads_tower() or find(name).prunes_tower()]
    clips = [name for name in names() if find(name).of_clips]
    for kind in map(family, families()):
        missing = [name for name in names() if name not in clips and not find(name).serves(kind)]
        works = "all" if not missing else "all but " + ", ".join(f"`{name}`" for name in missing)
        works = "decoder" if missing == towers else works
        film = "no" if not kind.takes_clips() else "frame by frame" if kind.frames_apart else "yes"
        assert said[kind.known[0]] == (film, works)
        assert {find(name).serves(kind) for name in clips} == {film == "yes"}


def test_the_results_are_those_that_were_measured():
    kept = json.loads((ROOT / "assets" / "results.json").read_text(encoding="utf-8"))
    assert readme.placed(README, readme.block(kept)) == README, "run: python scripts/readme.py"
    told = json.loads((ROOT / readme.STUDY).read_text(encoding="utf-8"))
    assert told["confirmed"]
    assert readme.placed(README, readme.study_block(told), readme.STUDY_MARKS) == README, (
        "run: python scripts/readme.py"
    )
    assert all(one["models"] for one in kept)


@pytest.mark.parametrize("page", ["README.md", "docs/first-hour.md"])
def test_the_comparison_in_python_runs_as_it_stands(page, tmp_path, monkeypatch, capsys):
    (block,) = re.findall(r"```python\n(from eval import Settings.*?)```", (ROOT / page).read_text("utf-8"), re.S)
    assert len([line for line in block.splitlines() if line]) <= 8
    monkeypatch.chdir(tmp_path)
    exec(block.replace('"limit": 24', '"limit": 4'), {})
    said = capsys.readouterr().out
    assert "pope" in said
    assert "fastv" in said
