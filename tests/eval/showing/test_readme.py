"""The results of the README come from runs, and stand between its two marks."""

import json
import shutil

import pytest
import readme


@pytest.fixture
def run(answered, tmp_path):
    """Arm both is always right, every other answer of arm none is wrong."""
    path = tmp_path / "run"
    shutil.copytree(answered.path, path)
    info = json.loads((path / "run.json").read_text(encoding="utf-8"))
    info["settings"]["models"] = {"image": "tiny 0123"}
    (path / "run.json").write_text(json.dumps(info), encoding="utf-8")
    return path


@pytest.fixture
def page(tmp_path):
    (tmp_path / "assets").mkdir()
    path = tmp_path / "README.md"
    path.write_text("before\n\n" + "\nstale\n".join(readme.MARKS) + "\n\nafter\n", encoding="utf-8")
    return path


def test_a_run_becomes_numbers(run):
    found = readme.measured(run)
    assert found["method"] == "FastV(keep=16)"
    assert found["arms"] == ["none", "both"]
    pope, average = found["benchmarks"]["pope"], found["benchmarks"]["average"]
    assert pope["arms"]["both"] == 100
    assert pope["arms"]["none"] < 100
    delta, low, high = pope["difference"]
    assert delta == pytest.approx(100 - pope["arms"]["none"], abs=0.01)
    assert low <= delta <= high
    assert average["n"] == sum(one["n"] for name, one in found["benchmarks"].items() if name != "average")


def test_the_page_gets_the_tables_and_nothing_else_changes(run, page, tmp_path):
    readme.main([str(run), str(run), "--root", str(tmp_path)])
    assert "both beats none by" in page.read_text(encoding="utf-8")  # the verdict of the comparison, word for word
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n\n" + readme.MARKS[0])
    assert text.endswith(readme.MARKS[1] + "\n\nafter\n")
    assert "stale" not in text
    assert "`FastV(keep=16)` on tiny 0123" in text
    gqa = next(line for line in text.splitlines() if line.startswith("| gqa"))
    assert "| 100.0 | +50.0 [50.0, 50.0] |" in gqa  # four pictures: the interval leaves out 0, the test does not
    assert sum(line.startswith("| `fastv`") for line in text.splitlines()) == 2  # the second table: a line for each run
    again = page.read_text(encoding="utf-8")
    readme.main(["--root", str(tmp_path)])  # from the numbers that were kept
    assert page.read_text(encoding="utf-8") == again


def test_a_method_without_a_trend_shows_its_padding_arm():
    average = {"n": 9, "arms": {"none": 1.0, "padding": None}, "difference": [-1.0, -2.0, -0.5]}
    average |= {"p": 0.01, "differs": True}
    one = {"method": "Grid(keep=3)", "models": {"image": "m"}, "tokens": None, "verdict": "v"}
    one |= {"arms": ["none", "padding"], "compared": "padding", "benchmarks": {"average": average}}
    text = readme.block([one])
    assert "padding − none, 95 %" in text
    assert "| – | **−1.0 [−2.0, −0.5]** |" in text
    found = {"difference": [1.0, 0.5, 2.0], "differs": False}
    assert readme.interval(found) == "+1.0 [0.5, 2.0]"  # bold goes by the corrected test, not by the interval
    assert readme.interval({"difference": [], "differs": False}) == "–"


def test_a_run_that_is_not_finished_is_refused(run):
    rows = next((run / "gqa").glob("both.*.jsonl"))
    rows.write_text("\n".join(rows.read_text(encoding="utf-8").splitlines()[:-1]) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match="is not finished: gqa"):
        readme.measured(run)


def test_a_page_without_marks_is_left_alone(run, tmp_path):
    (tmp_path / "assets").mkdir()
    (tmp_path / "README.md").write_text("no marks", encoding="utf-8")
    with pytest.raises(ValueError, match=r"README\.md lacks the lines"):
        readme.main([str(run), "--root", str(tmp_path)])
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "no marks"


def compared(layer, keep, arm, delta, differs):
    where = f"{keep} tokens before layer {layer}"
    return {
        "benchmark": where,
        "b": arm,
        "delta": delta,
        "low": delta - 2,
        "high": delta + 2,
        "differs": differs,
        "n": 6,
    }


def test_the_study_stands_between_its_own_marks(tmp_path):
    scores = {"none": 50.0, "trend": 51.0, "padding": 52.0, "both": 55.0}
    told = {
        "said": "both beats none.", "confirmed": True, "why": "the plan came first",
        "model": "smol 1", "unpruned": 80.0,
        "scores": [{"layer": 4, "keep": 64, **scores}, {"layer": 10, "keep": 64, **scores}],
        "comparisons": [compared(4, 64, "both", 5.0, True), compared(10, 64, "both", 5.0, False)],
    }  # fmt: skip
    marks = [*readme.MARKS, *readme.STUDY_MARKS]
    (tmp_path / "README.md").write_text("\n".join(marks) + "\n")
    (tmp_path / "assets" / "studies").mkdir(parents=True)
    (tmp_path / "assets" / "results.json").write_text((readme.ROOT / "assets" / "results.json").read_text())
    (tmp_path / "study.json").write_text(json.dumps(told))
    readme.main(["--root", str(tmp_path), "--study", str(tmp_path)])
    text = (tmp_path / "README.md").read_text().partition(readme.STUDY_MARKS[0])[2]
    assert "| 4 (primary) | 64 | 80.0 | 50.0 | 51.0 | 52.0 | 55.0 | **+5.0 [3.0, 7.0]** |" in text
    assert "| 10 | 64 | 80.0 | 50.0 | 51.0 | 52.0 | 55.0 | +5.0 [3.0, 7.0] |" in text
    assert text.strip().startswith("both beats none.")
    (tmp_path / "study.json").write_text(json.dumps({**told, "confirmed": False}))
    with pytest.raises(ValueError, match="confirms nothing"):
        readme.main(["--root", str(tmp_path), "--study", str(tmp_path)])
