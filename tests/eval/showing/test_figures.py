"""Every figure is drawn, is not empty, is the same file twice, and shows the numbers it was given."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from scipy.stats import bootstrap

from eval import benchmarks, cli
from eval.bias.probe import Activations
from eval.reading.sample import Sample, Score
from eval.scoring.contrast import alone
from eval.scoring.results import Result
from eval.showing import charts, drawings, figures
from pruners.parts import canvas

ARM_VALUES = (("none", 55.0, 9.0), ("both", 60.0, 9.0))
ARMS = ("none", "trend", "padding", "both")


def measured(value: float) -> list[float]:
    return [value, value - 0.1, value + 0.1]


def diagnosis() -> dict:
    rng = np.random.default_rng(0)
    names = ("raw", "average", "exponential", "with padding")
    return {
        "grid": [6, 6],
        "noise_floor": 0.1,
        "layers": [
            {
                "layer": layer,
                "trend": {"rise": measured(1), "r2": 0.5, "found": layer != 5},
                "fit_error": {"8": 0.8, "16": 0.55 + layer / 100},
                "curves": {name: np.exp(rng.normal(size=36)).tolist() for name in names},
                "arms": {arm: {"rise": measured(layer), "correlation": measured(0.3)} for arm in ARMS},
                **{name: {"rise": measured(0), "correlation": measured(0)} for name in ("no_rope", "chance")},
                **{name: [measured(head - 1) for head in range(4)] for name in ("heads", "heads_no_rope")},
            }
            for layer in (0, 1, 5)
        ],
    }


def rows() -> list[dict]:
    sizes = {"portrait": (48, 96), "square": (96, 96), "landscape": (96, 48)}
    return [
        {"metadata": {"size": size, "arm": arm, "kept": ["0-35", "30-35"]}} for size in sizes.values() for arm in ARMS
    ]


def panels() -> dict:
    shown = drawings.overlay(Image.new("RGB", (60, 30), (200, 0, 0)), [14, 15], canvas.padded((60, 30), 6))
    return {"fastv": {"none": (shown, "$x_1$ <b>"), "both": (shown, "")}, "himap": {"none": (shown, "yes")}}


def sink() -> Activations:
    rng = np.random.default_rng(0)
    parts = {kind: rng.random((6, 4)) for kind in ("padding", "valid")}
    return Activations([1, 7], np.arange(4.0), parts, {kind: rng.random((4, 12)) for kind in parts})


METHODS = {name: {"none": 55.0 + k, "both": 60.0 + k} for k, name in enumerate(("fastv", "himap", "illava"))}
BUDGETS = {
    "FastV": {"none": [(20, 60.0), (10, 50.0)], "both": [(10, 55.0)]},
    "Random": {"none": [(10, 40.0), (20, 50.0)]},
}
MADE = {
    "maps": lambda: drawings.maps(diagnosis()["layers"][0]["curves"], (6, 6), "title", True),
    "trends": lambda: drawings.trends(diagnosis()["layers"][0]["curves"], "title", True),
    "fit-error": lambda: drawings.fit_errors(diagnosis()["layers"]),
    "heads": lambda: drawings.heads(diagnosis()["layers"]),
    "layers": lambda: drawings.layers(diagnosis()["layers"], 0.1),
    "dots": lambda: charts.dots(
        {"pope": dict.fromkeys(ARMS, measured(50)), "gqa": {"none": measured(40), "both": measured(45)}}
    ),
    "radar": lambda: charts.radar(METHODS),
    "budget": lambda: charts.budget(BUDGETS, 70.0),
    "effects": lambda: charts.effects({name: {"64": (1, 0, 2), "128": (-1, -2, 1)} for name in METHODS}, "score"),
    "fits": lambda: drawings.fits(
        {"gqa": [1.0, 2.0, 4.0]}, {"gqa, exponential": [1.0, 2.0, 4.0], "released": [1, 1, 1]}
    ),
    "ratio": lambda: charts.ratio({2: 60.0, 3: 55.0, 8: 62.0}, {"raw-L12": 66.0}),
    "boxes": lambda: charts.boxes({f"{name} none": (measured(0.2), measured(0.15)) for name in METHODS}),
    "sweep": lambda: charts.sweep(
        {name: {64: measured(2), 128: measured(1)} for name in ("textvqa", "mean")}, {"textvqa": {64: 2.0}}, "x", "y"
    ),
    "strengths": lambda: charts.strengths(
        {name: {arm: {"rise": measured(1), "kept_rise": measured(2)} for arm in ARMS} for name in METHODS},
        {"rise": "score", "kept_rise": "kept"},
    ),
    "activations": lambda: drawings.activations({"mean": sink(), "mirror": sink()}),
    "overlays": lambda: drawings.overlays(panels(), "pope: how much is $5 and $6?"),
    "frequency": lambda: drawings.frequency(rows(), 6),
}


@pytest.mark.parametrize("name", MADE)
def test_drawn_and_reproducible(name, tmp_path):
    svg, png = drawings.save(MADE[name](), tmp_path / "one")
    again = drawings.save(MADE[name](), tmp_path / "two")
    pixels = np.asarray(Image.open(png).convert("RGB")).reshape(-1, 3)
    assert 0.005 < (pixels < 250).any(1).mean() < 0.95  # neither blank nor blotted
    assert len(np.unique(pixels, axis=0)) > 20
    assert svg.read_bytes() == again[0].read_bytes()
    assert png.read_bytes() == again[1].read_bytes()
    assert b"<script" not in svg.read_bytes()


def test_frequency_shows_what_was_kept():
    drawn = drawings.frequency(rows(), 6)
    pictures = [
        axis.images[0].get_array() for axis in drawn.axes if axis.images and len(axis.images[0].get_array()) == 6
    ]
    assert len(pictures) == 3
    for picture in pictures:
        np.testing.assert_array_equal(picture, np.repeat([[0.0]] * 5 + [[1.0]], 6, axis=1))
    assert drawn.axes[0].get_title("left") == ", ".join(ARMS)  # they keep the same


def test_frequency_parts_arms_that_differ_and_shows_where_the_padding_begins():
    odd = [{"metadata": {"size": (30, 90), "arm": arm, "kept": [kept]}} for arm, kept in zip(ARMS, "0012", strict=True)]
    drawn = drawings.frequency([*rows(), *rows(), *odd], 6)
    assert [axis.get_title("left") for axis in drawn.axes[:3]] == ["none, trend", "padding", "both"]
    shown = ["portrait 0.5 : 1\nn = 2", "square\nn = 2", "landscape 2 : 1\nn = 2"]
    assert [axis.get_ylabel() for axis in drawn.axes[:9:3]] == shown
    edges = [patch.get_bbox().bounds for axis in drawn.axes for patch in axis.patches]
    assert edges == [(1.0, -0.5, 3.0, 6.0)] * 3 + [(-0.5, 1.0, 6.0, 3.0)] * 3


def test_trends_have_gaps_where_nothing_was_seen():
    curve = np.exp(0.01 * np.arange(144))
    curve[[0, 7]] = 0
    drawn = drawings.trends(dict.fromkeys(("raw", "average", "exponential"), curve.tolist()), "title", True)
    assert np.flatnonzero(np.isnan(drawn.axes[0].lines[0].get_ydata())).tolist() == [0, 7]


def test_trends_print_the_rise_that_was_planted():
    curve = np.exp(0.01 * np.arange(144)).tolist()
    drawn = drawings.trends({"raw": curve, "average": [1.0] * 144, "exponential": curve[::-1]}, "title", False)
    labels = [axis.get_legend().get_texts()[0].get_text() for axis in drawn.axes]
    assert labels == ["rise +1.43", "rise +0.00", "rise -1.43"]
    assert drawn.axes[2].get_title("left") == "no trend here: not divided"


def test_layers_without_a_trend_are_marked():
    axis = drawings.layers(diagnosis()["layers"], 0.1).axes[0]
    (marked,) = [line for line in axis.lines if "no trend here" in str(line.get_label())]
    assert list(marked.get_xdata()) == [5]


def test_an_interval_beside_its_value_is_drawn_where_it_lies():
    axis = charts.dots({"pope": {"none": (50.0, 50.1, 60.0)}}).axes[0]
    ((start, end),) = axis.collections[0].get_segments()
    assert (start[0], end[0], axis.lines[0].get_xdata().tolist()) == (50.1, 60.0, [50.0])


def test_overlay_dims_what_is_gone():
    picture = Image.new("RGB", (60, 30), (200, 0, 0))
    shown = drawings.overlay(picture, [14], canvas.padded((60, 30), 6))
    cell = shown.size[0] // 6
    sharp = shown.getpixel((2 * cell + cell // 2, 2 * cell + cell // 2))
    dim = shown.getpixel((4 * cell + cell // 2, 2 * cell + cell // 2))
    assert sharp == (200, 0, 0)
    assert max(dim) < 60


def test_command_draws_a_diagnosis(tmp_path, capsys):
    source = tmp_path / "diagnosis.json"
    source.write_text(json.dumps(diagnosis()))
    assert cli.main(["figures", str(source), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)["figures"]
    assert {path.rsplit("/", 1)[1] for path in made} == {
        f"{what}.{kind}"
        for what in (*(f"attention-{part}" for part in ("maps", "trends", "layers", "heads")), "fit-error")
        for kind in ("svg", "png")
    }
    assert cli.main(["figures", str(source), "--layer", "7"]) == 1
    assert "no layer 7; it has 0, 1, 5" in capsys.readouterr().err


def test_command_draws_what_was_kept_of_one_question(answered, tmp_path, capsys):
    key = answered.rows("gqa", "none")[0]["metadata"]["key"]
    words = ["figures", str(answered.path), "--out", str(tmp_path), "--json", "--sample"]
    assert cli.main([*words, key]) == 0
    made = json.loads(capsys.readouterr().out)["figures"]
    assert [Path(path).name for path in made] == [f"kept-{key}.svg", f"kept-{key}.png"]
    assert "both" in Path(made[0]).read_text()
    assert cli.main([*words, key, "--arms", "none"]) == 0
    assert ">both<" not in Path(json.loads(capsys.readouterr().out)["figures"][0]).read_text()
    assert cli.main([*words, "nobody"]) == 1
    assert "no run has an answer" in capsys.readouterr().err


def test_a_file_that_is_no_diagnosis_is_named(tmp_path, capsys):
    path = tmp_path / "speed.json"
    for content, said in (('{"layers": 3}', "expected the result of a diagnosis"), ("[", "Expecting value")):
        path.write_text(content)
        assert cli.main(["figures", str(path)]) == 1
        message = capsys.readouterr().err
        assert str(path) in message
        assert said in message


def test_command_draws_a_run(answered, tmp_path, capsys):
    assert cli.main(["figures", str(answered.path), "--out", str(tmp_path), "--json"]) == 0
    made = {Path(path).name for path in json.loads(capsys.readouterr().out)["figures"]}
    assert made == {f"{name}.{kind}" for name in ("scores", "selection-frequency") for kind in ("svg", "png")}


def test_radar_begins_at_nothing_and_no_label_lies_on_a_ring():
    drawn = charts.radar(
        {**METHODS, **{f"a method of a long name {k}": {"none": 90.0, "both": 31.0} for k in range(3)}}
    )
    axis = drawn.axes[0]
    assert axis.get_ylim() == (0, 90)
    drawn.draw_without_rendering()
    center, radius = axis.transData.transform((0, 0)), axis.bbox.width / 2
    for text in axis.get_xticklabels():
        box = text.get_window_extent()
        nearest = np.clip(center, (box.x0, box.y0), (box.x1, box.y1))
        assert np.hypot(*(nearest - center)) > radius, text.get_text()


def test_an_arm_has_an_interval_of_its_own():
    rng = np.random.default_rng(3)
    right = rng.random(200) < 0.6
    samples = [Sample(str(i), "?", target="yes", group=str(i)) for i in range(len(right))]
    items = {sample.key: float(one) for sample, one in zip(samples, right, strict=True)}
    score = Score("gqa", 100 * right.mean(), "", {}, items, {key: key for key in items}, len(items), 0, 0)
    value, low, high = alone(benchmarks.get("gqa"), samples, Result("none", score, [], 0, None))
    other = bootstrap((right.astype(float),), np.mean, n_resamples=4000, rng=0).confidence_interval
    assert value == 100 * right.mean()
    assert (low, high) == pytest.approx((100 * other.low, 100 * other.high), abs=1)


def test_radar_needs_three_methods_and_budget_two_points():
    def scored_at(times):
        return [
            SimpleNamespace(
                benchmark=SimpleNamespace(name="pope"),
                arms={
                    arm: SimpleNamespace(score=SimpleNamespace(value=v), tokens=times * t, rows=[])
                    for arm, v, t in ARM_VALUES
                },
            )
        ]

    scored = scored_at(1)
    settings = [f"{name}(keep={keep})" for name, keep in (("FastV", 1), ("HiMAP", 1), ("ILLaVA", 1))]
    runs = {Path(f"run-{n}"): ({"settings": {"method": text}}, scored) for n, text in enumerate(settings)}
    assert "radar" not in figures.together(dict(list(runs.items())[:2]))
    made = figures.together(runs)
    assert set(made) == {"radar"}
    assert {label.get_text().split("\n")[0] for label in made["radar"].axes[0].get_xticklabels()} == {
        *("FastV", "HiMAP", "iLLaVA")  # as its authors write it; the class cannot be called so
    }
    more = {Path("run-x"): ({"settings": {"method": "FastV(keep=2)"}}, scored_at(2))}
    assert set(figures.together({**runs, **more})) == {"budget"}  # two runs of a method have no one spoke
    same = {Path("run-x"): ({"settings": {"method": "FastV(layer=3)"}}, scored)}
    assert not figures.together({**runs, **same})  # one budget twice is no line


def test_budget_shows_baselines_in_every_panel_and_the_unpruned_score():
    lines = {**BUDGETS, "HiMAP": {"none": [(10, 45.0), (20, 46.0)]}}
    drawn = charts.budget(lines, 70.0)
    assert [axis.get_title("left") for axis in drawn.axes] == ["FastV", "HiMAP"]
    for axis in drawn.axes:
        shown = {line.get_label(): line.get_xydata().tolist() for line in axis.lines}
        assert shown["random"] == [[10, 40], [20, 50]]
        assert {y for _, y in shown["unpruned"]} == {70}
    assert [line.get_xydata().tolist() for line in drawn.axes[0].lines if line.get_label() == "none"] == [
        [[10, 50], [20, 60]]  # in the order of the budgets
    ]


def test_ratio_needs_two_shallow_layers():
    scored = [
        SimpleNamespace(
            benchmark=SimpleNamespace(name="refcoco"),
            arms={"none": SimpleNamespace(score=SimpleNamespace(value=50.0), tokens=None, rows=[])},
        )
    ]
    texts = [
        f"DeepLayer(scores=Scores(kind='{kind}', shallow={n}))" for kind, n in (("ratio", 2), ("ratio", 5), ("raw", 2))
    ]
    runs = {Path(f"run-{n}"): ({"settings": {"method": text}}, scored) for n, text in enumerate(texts)}
    assert set(figures.together(runs)) == {"ratio"}
    assert "ratio" not in figures.together(dict(list(runs.items())[1:]))
