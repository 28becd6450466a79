"""Comparisons of runs whose right answer is known, and the page that shows them."""

import json
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from eval import benchmarks
from eval.answering.plan import digest, limited
from eval.answering.store import Folder
from eval.cli import main
from eval.reading.sample import make_row
from eval.scoring.contrast import contrast
from eval.scoring.results import Result, scored
from eval.showing import cards


def rows(samples, texts, arm, run="r1", **facts):
    return [
        make_row(sample, text, "m", {"benchmark": "pope", "arm": arm, "run": run, **facts})
        for sample, text in zip(samples, texts, strict=True)
    ]


@pytest.fixture
def asked(world):
    return benchmarks.get("pope").load(world)


def result(samples, answer, label="none", name="pope"):
    benchmark = benchmarks.get(name)
    return scored(benchmark, samples, rows(samples, [answer(s) for s in samples], label), label)


def test_right_against_wrong(asked):
    right, wrong = (
        result(asked, lambda s: s.target, "both"),
        result(asked, lambda s: "no" if s.target == "yes" else "yes"),
    )
    found, _, _ = contrast(benchmarks.get("pope"), asked, wrong, right, draws=300)
    assert (found.value_a, found.value_b, found.delta) == (0, 100, 100)
    assert (found.low, found.high) == (100, 100)
    assert (found.up, found.down, found.n) == (len(asked), 0, len(asked))
    assert found.test == "sign flips"  # the mean of three F1 is no mean of questions
    assert found.groups == len({s.group for s in asked})


def test_an_arm_against_itself(asked):
    same = result(asked, lambda s: "yes")
    found, _, _ = contrast(benchmarks.get("pope"), asked, same, same, draws=200)
    assert (found.delta, found.low, found.high, found.p, found.up, found.down) == (0, 0, 0, 1, 0, 0)


@pytest.mark.parametrize("name", ["pope", "mme", "mmbench", "gqa", "scienceqa"])
def test_the_resampled_metric_is_the_metric(world, name):
    """With every group counted once, the statistic that is resampled gives the very scores of both arms."""
    benchmark = benchmarks.get(name)
    samples = [s for s in benchmark.load(world) if s.target is not None]
    rng = np.random.default_rng(0)

    blank = benchmark.score([], samples)

    def scores(chance):
        items = {s.key: float(rng.random() < chance) for s in samples}
        value = float(benchmark.statistic(samples, np.array(list(items.values())))(np.ones(len(items))))
        return Result("x", replace(blank, items=items, value=value), [], 0, None)

    a, b = scores(0.4), scores(0.7)
    found, drawn, _ = contrast(benchmark, samples, a, b, draws=400)
    assert found.delta == pytest.approx(b.score.value - a.score.value)
    assert np.mean(drawn) == pytest.approx(found.delta, abs=0.35 * abs(found.delta) + 15)
    assert found.low <= found.delta <= found.high


def test_questions_of_one_arm_only_are_named(asked):
    a, b = result(asked, lambda s: "yes"), result(asked[1:], lambda s: "yes")
    with pytest.raises(ValueError, match="was asked in only one of"):
        contrast(benchmarks.get("pope"), asked, a, b)


def made(tmp_path, world, name="run", run="r1", limit=None, **arms):
    """A run folder with given answers."""
    samples = limited(benchmarks.get("pope").load(world), limit)
    folder = Folder(tmp_path / name).claim({"method": "M()", "limit": limit}, run)
    folder.note("pope", {"n": len(samples), "digest": digest(samples), "tokens": 16}, {"data": str(world)})
    for arm, answer in arms.items():
        shard = folder.shard("pope", arm)
        kept = {"kept": ["0-3,7"], "counts": {"mean": 8.0}}
        for row in rows(samples, [answer(s) for s in samples], arm, run, **kept):
            shard.append(row)
        shard.close()
    folder.close()
    return folder.path


def run(capsys, *arguments, status=0):
    capsys.readouterr()
    assert main([*map(str, arguments)]) == status
    return capsys.readouterr()


def test_compare_a_folder(tmp_path, world, capsys):
    folder = made(tmp_path, world, none=lambda s: "no", both=lambda s: s.target)
    seen = run(capsys, "compare", folder, "--json", "--draws", 200, "--out", tmp_path / "tables")
    (found,) = json.loads(seen.out)["comparisons"]
    assert (found["a"], found["b"], found["value_b"], found["tokens_b"]) == ("none", "both", 100, 8)
    assert found["p"] < 0.5
    assert "Differences to none" not in seen.err
    assert (
        "both and none cannot be told apart on pope (22 questions): +100.0 [100.0, 100.0] points, p = 0.12" in seen.err
    )
    assert "Differences to none" in run(capsys, "compare", folder, "--wide", "--draws", 200).err
    assert seen.out.startswith('{"verdict": "both and none cannot be told apart')
    assert {p.name for p in (tmp_path / "tables").iterdir()} == {"table.md", "table.csv", "table.tex"}


def test_compare_arms_of_two_runs(tmp_path, world, capsys):
    a = made(tmp_path, world, "a", none=lambda s: "yes")
    b = made(tmp_path, world, "b", run="r2", both=lambda s: s.target)
    (found,) = json.loads(run(capsys, "compare", f"{a}:none", f"{b}:both", "--json", "--draws", 200).out)["comparisons"]
    assert (found["a"], found["b"], found["value_b"]) == ("a:none", "b:both", 100)


def test_runs_of_other_limits_compare_what_both_were_asked(tmp_path, world, capsys):
    a = made(tmp_path, world, "a", none=lambda s: "yes")
    b = made(tmp_path, world, "b", run="r2", limit=6, both=lambda s: s.target)
    err = run(capsys, "compare", f"{a}:none", f"{b}:both", status=1).err
    assert "`compare --common` compares what both answered" in err
    (found,) = json.loads(run(capsys, "compare", f"{a}:none", f"{b}:both", "--common", "--json").out)["comparisons"]
    asked = limited(benchmarks.get("pope").load(world), 6)
    assert found["n"] == len(asked) < len(benchmarks.get("pope").load(world))
    assert found["value_b"] == 100
    same = made(tmp_path, world, "c", run="r3", limit=6, none=lambda s: "yes")
    (direct,) = json.loads(run(capsys, "compare", f"{same}:none", f"{b}:both", "--json").out)["comparisons"]
    assert {**direct, "a": found["a"]} == found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}", "--baseline", "trend"], "has no arm 'trend'; it has both, none"),
        (["{run}:none"], "compare needs a run folder, or at least two RUN:ARM"),
        (["{run}:none", "{run}:padding"], "holds no rows of the arm 'padding'"),
        (["nowhere"], "nowhere is not a run folder"),
    ],
)
def test_wrong_references_are_named(tmp_path, world, capsys, arguments, message):
    folder = made(tmp_path, world, none=lambda s: "no", both=lambda s: s.target)
    assert message in run(capsys, "compare", *[a.format(run=folder) for a in arguments], status=1).err


def test_moved_data_must_be_the_same(tmp_path, world, capsys):
    folder = made(tmp_path, world, none=lambda s: "no", both=lambda s: s.target)
    (tmp_path / "pope" / "coco").mkdir(parents=True)
    for source in (world / "pope" / "coco").iterdir():
        (tmp_path / "pope" / "coco" / source.name).write_text(source.read_text())
    lines = (world / "pope" / "llava_pope_test.jsonl").read_text().splitlines()
    (tmp_path / "pope" / "llava_pope_test.jsonl").write_text("\n".join(lines[::-1]))
    err = run(capsys, "compare", folder, "--data", tmp_path, status=1).err
    assert "are not those the run answered" in err


def test_unfinished_arms_are_said(tmp_path, world, capsys):
    folder = made(tmp_path, world, none=lambda s: "no", both=lambda s: s.target)
    path = folder / "pope" / "both.0.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-5]))
    seen = run(capsys, "compare", folder, "--draws", 100, "--json")
    assert "5 questions have no answer yet" in seen.err
    assert json.loads(seen.out)["comparisons"][0]["missing_b"] == 5


def addresses(page):
    """What all tags of a page refer to."""
    seen = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, pairs: seen.extend(value for name, value in pairs if name in ("href", "src"))
    parser.feed(page)
    return seen


def test_what_was_dropped_is_covered_row_by_row():
    assert cards.dark("0-3,7", 3) == "M1 1h2v1H1zM0 2h1v1H0zM2 2h1v1H2z"
    assert cards.dark("0-8", 3) == cards.dark(None, 3) == cards.dark("0", 0) == ""
    assert cards.dark("", 2) == "M0 0h2v1H0zM0 1h2v1H0z"


def test_the_report_is_one_safe_page(tmp_path, world, capsys):
    evil = "</script><script>alert(1)</script><img src=http://x/y>"
    folder = made(tmp_path, world, none=lambda s: evil, both=lambda s: s.target)
    seen = json.loads(run(capsys, "report", folder, "--samples", 3, "--draws", 100, "--json").out)
    page = (folder / "report.html").read_text()
    assert seen["samples"] >= 3  # those that differ, and the first of the file
    assert evil not in page
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in page
    assert page.count("<script>") == 1
    found = addresses(page)
    assert all(one.startswith(("data:image/", "#")) for one in found)  # nothing is fetched
    held = [one for one in found if one.startswith("data:image/webp;base64,")]
    assert len(held) == len(set(held)) >= 3  # every picture once
    assert cards.dark("0-3,7", 4) in page
    assert "default-src 'none'" in page
