"""The notebook runs from top to bottom, and what it shows was shown by it."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EXAMPLES = Path(__file__).parents[2] / "examples"
PATH = EXAMPLES / "tour.ipynb"
TOUR = json.loads(PATH.read_text(encoding="utf-8"))
CODE = [cell for cell in TOUR["cells"] if cell["cell_type"] == "code"]


@pytest.fixture(scope="module")
def runner():
    spec = importlib.util.spec_from_file_location("run_notebook", EXAMPLES / "run_notebook.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def kinds(notebook):
    """Of every cell, the kinds of what it shows."""
    return [[sorted(out.get("data", {"text": 0})) for out in cell.get("outputs", [])] for cell in notebook["cells"]]


def printed(notebook):
    outputs = (out for cell in notebook["cells"] for out in cell.get("outputs", []))
    return "".join("".join(out["text"]) for out in outputs if out["output_type"] == "stream")


@pytest.fixture(scope="module")
def again(runner):
    return runner.run(runner.read(PATH))


@pytest.mark.long
def test_it_runs_from_top_to_bottom(again):
    assert kinds(again) == kinds(TOUR)
    assert [cell["source"] for cell in again["cells"]] == [cell["source"] for cell in TOUR["cells"]]
    rows = [line.split() for line in printed(again).splitlines() if line.startswith(("padding ", "both "))]
    assert len(rows) == 4  # two methods
    assert all(row[-1] == "0.0%" for row in rows)  # no budget goes to padding once it is silenced


@pytest.mark.long
def test_what_is_kept_is_what_is_shown(again):
    """The shown strips differ between the methods, and the picture is in them."""
    strips = [picture for picture in pictures(again) if picture.width == 800]
    assert len(strips) == 2
    assert strips[0].tobytes() != strips[1].tobytes()


def pictures(notebook):
    outputs = (out for cell in notebook["cells"] for out in cell.get("outputs", []))
    found = [out["data"]["image/png"] for out in outputs if "image/png" in out.get("data", {})]
    return [Image.open(io.BytesIO(base64.b64decode(text))) for text in found]


def test_its_pictures_are_whole_and_small():
    found = pictures(TOUR)
    assert len(found) == 3
    for picture in found:
        picture.load()
        assert max(picture.size) <= 800
    assert PATH.stat().st_size < 200_000


def test_every_cell_was_run_once_in_order():
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    assert not any(out["output_type"] == "error" for cell in CODE for out in cell["outputs"])


def test_it_says_nothing_of_the_machine(runner):
    assert TOUR["metadata"] == runner.METADATA
    assert all(cell["metadata"] == {} for cell in TOUR["cells"])
    texts = ["".join(cell["source"]) for cell in TOUR["cells"]] + [printed(TOUR)]
    assert not any(" at 0x" in text or re.search(r"""(^|[\s'"(])/\w+/""", text) for text in texts)  # an absolute path


def test_an_error_in_a_cell_is_an_error(runner):
    broken = {"cells": [{"cell_type": "code", "source": ["1 / 0"]}]}
    with pytest.raises(ZeroDivisionError):
        runner.run(broken)


def test_what_a_cell_shows(runner):
    cells = [
        {"cell_type": "code", "source": ["x = 2\n", "print(x)\n", "x + 1"]},
        {"cell_type": "code", "source": "x = 5"},
    ]
    first, second = runner.run({"cells": cells})["cells"]
    assert [out["output_type"] for out in first["outputs"]] == ["stream", "execute_result"]
    assert first["outputs"][0]["text"] == ["2\n"]
    assert first["outputs"][1]["data"] == {"text/plain": ["3"]}
    assert second["outputs"] == []


def test_it_is_a_notebook_by_the_format():
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbformat.validate(nbformat.from_dict(TOUR))


def test_the_badge_opens_this_notebook_in_colab_and_installs_from_the_repository(runner):
    notebook = runner.read(PATH)
    made = runner.in_colab(notebook, "examples/tour.ipynb", "somebody/debias")
    badge, install = ("".join(cell["source"]) for cell in made["cells"][:2])
    assert badge.endswith("(https://colab.research.google.com/github/somebody/debias/blob/main/examples/tour.ipynb)")
    package = tomllib.loads((EXAMPLES.parent / "pyproject.toml").read_text())["project"]["name"]
    assert install == f'%pip install -q "{package} @ git+https://github.com/somebody/debias"'
    assert runner.without_colab(made) == notebook
    assert runner.in_colab(made, "examples/tour.ipynb", "somebody/debias") == made  # no second badge
    with pytest.raises(ValueError, match="expected OWNER/NAME"):
        runner.in_colab(notebook, "examples/tour.ipynb", "https://github.com/somebody/debias")
