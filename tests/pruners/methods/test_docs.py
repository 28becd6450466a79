"""The pages that show how to add things are run as they stand."""

import re
import sys

import pytest
import torch
from following import DOCS, add_row, blocks, commands, copied, followed, passed

import pruners
from pruners import methods


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


@pytest.mark.long
def test_a_method_that_is_added_as_the_page_says_needs_nothing_else(tmp_path):
    copy = copied(tmp_path)
    run = "-m eval run --method valuenorm --keep 40 --benchmarks pope --limit 2 --out runs/one --arms none,both"
    run = f"{run} --trend online --device cpu".split()
    with pytest.raises(AssertionError, match="unknown method 'valuenorm'"):
        followed(copy, *run, "--dry-run")

    (copy / "pruners" / "methods" / "valuenorm.py").write_text(blocks("new_method.md", "python")[0], encoding="utf-8")
    add_row(copy, "new_method.md", "fastv")
    assert passed([followed(copy, *words) for words in commands("new_method.md")][-1]) > 40

    followed(copy, *run, "--dry-run")
    followed(copy, *run)
    rows = (copy / "runs" / "one" / "pope").glob("*.jsonl")
    assert [len(path.read_text(encoding="utf-8").splitlines()) for path in rows] == [6, 6]  # POPE asks in three ways


@pytest.mark.long
def test_a_family_that_is_added_as_the_page_says_needs_nothing_else(tmp_path):
    """The near part of the matrix: what holds for every family, and one method."""
    copy = copied(tmp_path)
    file, *_, line = blocks("new_model.md", "python")
    (copy / "pruners" / "models" / "vipllava.py").write_text(file, encoding="utf-8")
    with open(copy / "tests" / "pruners" / "builders.py", "a", encoding="utf-8") as builders:
        builders.write(f"\n{line.strip()}\n")
    add_row(copy, "new_model.md", "LLaVA-1.5")
    (words,) = commands("new_model.md")
    near = [*words[: words.index("-k")], "-k", "vipllava and (test_families or fastv) or readme and table"]
    assert passed(followed(copy, *near)) > 15


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
