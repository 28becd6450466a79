"""Fitting a trend: a planted one is found, padding takes no part, and what is written can be used."""

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image

from debias import Reading, Span, Trend
from debias import trends as files
from eval.answering.resolved import Resolved
from eval.bias import fitting
from eval.bias.fits import table
from eval.bias.fitting import Fit, ScoreProbe, fitted
from eval.cli import main
from eval.core.settings import Settings
from eval.reading.images import of_folder
from pruners import catalogue, make
from pruners.models import Request, adapter
from pruners.prior import PROMPT, Prior

ONE_ANSWER = ("--benchmarks", "gqa", "--limit", "1", "--max-new-tokens", "2", "--arms", "trend")


def test_a_planted_trend_is_found():
    probe, torch_state = ScoreProbe(), torch.Generator().manual_seed(0)
    index = torch.arange(64)
    for _ in range(400):
        noise = torch.rand(64, generator=torch_state) + 0.5
        probe(noise * torch.exp(0.02 * index), Span(5, (8, 8), size=(80, 80)))
    trend, curve, settled = fitted(probe)
    assert trend.rate == pytest.approx(0.02, abs=0.001)
    assert trend.length == 64
    assert trend.r2 > 0.95
    assert len(curve) == 64
    assert settled.agreed
    assert settled.rise[1] < 0.02 * 63 < settled.rise[2]


def test_where_there_is_no_trend_nothing_is_divided():
    probe, torch_state = ScoreProbe(), torch.Generator().manual_seed(0)
    for _ in range(40):
        probe(torch.rand(64, generator=torch_state) + 0.5, Span(5, (8, 8), size=(80, 80)))
    trend, _, settled = fitted(probe)
    assert not settled.agreed
    assert settled.fitted.rate != 0
    assert torch.equal(trend.weight(None, 64), torch.ones(64))
    record = {**files.describe(trend), "rise": list(settled.rise), "found": "no trend here"}
    shown = table("fastv", {"here": {**record, "pruner": "p", "model": "m", "layer": 2, "questions": 1}})
    assert shown.rows[0][-1] == "no trend here"
    assert shown.rows[0][3] == settled.rise[0]


def test_questions_about_one_picture_are_one_group(checkpoints, world):
    from eval import benchmarks
    from eval.bias.fitting import measure
    from pruners.models import adapter

    family = adapter(str(checkpoints["image"])).load(str(checkpoints["image"]))
    benchmark = benchmarks.get("gqa")
    samples = benchmark.load(world)
    probe = measure(family, make("fastv", keep=4), [(benchmark, samples)])
    (groups,) = probe.groups.values()
    assert len(groups) == len(samples)
    assert set(groups) == {f"gqa {sample.group}" for sample in samples}


def test_the_frames_of_a_clip_are_one_group(builders, world):
    """Also where words stand between them, and each is a span of its own."""
    from eval import benchmarks
    from eval.bias.fitting import measure

    family, benchmark = builders.adapter("internvl"), benchmarks.get("msvd")
    samples = benchmark.load(world)[:3]
    (groups,) = measure(family, make("fastv", keep=4), [(benchmark, samples)]).groups.values()
    frames = len(groups) // len(samples)
    assert frames > 1
    assert groups == [f"msvd {sample.group}" for sample in samples for _ in range(frames)]


def test_padding_takes_no_part():
    probe = ScoreProbe()
    score = torch.exp(0.01 * torch.arange(64.0))
    score[:16] = score[-16:] = 1000.0  # two border rows above and below a 2:1 picture
    probe(score, Span(0, (8, 8), size=(160, 80)))
    trend, *_ = fitted(probe)
    assert trend.rate == pytest.approx(0.01, abs=1e-6)


def test_later_cuts_and_the_tower_take_no_part():
    probe = ScoreProbe()
    span = Span(0, (8, 8), size=(80, 80))
    score = torch.rand(64)
    assert probe(score, span, 1) is score
    assert probe(score, span, 0, "vision") is score
    with pytest.raises(ValueError, match="scored no visual token"):
        fitted(probe)


def test_fit_writes_a_file_that_run_takes(checkpoints, world, tmp_path, capsys):
    out = tmp_path / "trends.toml"
    common = ["--model", str(checkpoints["image"]), "--data", str(world)]
    for method in ("fastv", "himap"):
        assert (
            main(
                [
                    "fit",
                    "--method",
                    method,
                    *common,
                    "--benchmarks",
                    "pope",
                    "--limit",
                    "4",
                    "--out",
                    str(out),
                    "--json",
                ]
            )
            == 0
        )
        found = json.loads(capsys.readouterr().out)
        assert found["method"] == method
        assert {"rate", "r2", "length", "model", "layer", "prompt", "questions", "data", "attention"} <= found.keys()
    assert {record["method"] for record in files.load(out)} == {"fastv", "himap"}  # the first one stayed
    trend = files.find("fastv", None, out)
    assert isinstance(trend, Trend)
    assert (
        main(["run", "--method", "fastv", *common, "--trend", str(out), *ONE_ANSWER, "--out", str(tmp_path / "run")])
        == 0
    )
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert repr(trend) in info["benchmarks"]["gqa"]["debias"]["trend"]
    assert info["settings"]["trend"].startswith("trends.toml ")


@pytest.mark.parametrize(
    ("trend", "expected"),
    [
        (Trend.exponential(0.01), 0.99),
        (replace(Trend.exponential(0.01), floor=2.0), math.log((math.exp(0.99) + 2) / 3)),
        (Trend.inverse_cubic(0.01, 0.0, 0.0), math.log(1.99)),
    ],
    ids=["exponential", "with an offset", "cubic"],
)
def test_the_rise_is_that_of_the_whole_trend(trend, expected):
    record = {**files.describe(replace(trend, length=100)), "pruner": "p", "model": "m", "layer": 2, "questions": 1}
    shown = table("fastv", {"here": record})
    assert shown.rows[0][shown.head.index("rise")] == pytest.approx(expected, abs=1e-5)


def test_trends_beside_the_checkpoint_are_the_default(checkpoints, world, tmp_path, capsys):
    import shutil

    model = shutil.copytree(checkpoints["image"], tmp_path / "model")
    files.dump([{"method": "fastv", **files.describe(Trend.exponential(0.123))}], model / "trends.toml")
    assert (
        main(
            [
                "run",
                "--method",
                "fastv",
                "--model",
                str(model),
                "--data",
                str(world),
                *ONE_ANSWER,
                "--out",
                str(tmp_path / "run"),
            ]
        )
        == 0
    )
    assert "0.123" in (tmp_path / "run" / "run.json").read_text()


def test_a_trend_fitted_on_the_way_does_not_depend_on_the_last_bit():
    from eval.bias.fitting import rounded

    one = {"kind": "table", "rate": 0.0123456789, "values": [1.0, 0.98765432], "length": 2, "between": {"rate": 0.1}}
    other = {**one, "rate": 0.0123456788, "values": [1.0, 0.98765431]}
    assert rounded(one) == rounded(other)
    assert rounded(one)["rate"] == pytest.approx(one["rate"], rel=1e-3)
    assert rounded(one)["length"] == 2


@pytest.mark.parametrize("kind", ["exponential", "inverse_cubic", "average", "rope"])
def test_other_kinds_follow_the_same_curve(kind):
    probe = ScoreProbe()
    curve = torch.exp(0.02 * torch.arange(64.0))
    options = {"head_dim": 8, "theta": 100.0} if kind == "rope" else {}
    if kind == "rope":  # which is no straight line
        curve = 1 / Trend.rope(3.0, **options).weight(None, 64)
    probe(curve, Span(0, (8, 8)))
    trend, *_ = fitted(probe, Fit(kind), **options)
    flat = curve * trend.weight(None, 64)
    spread = {"exponential": 1e-3, "average": 1e-3, "inverse_cubic": 0.2, "rope": 1e-3}[kind]
    assert float(flat.max() / flat.min() - 1) < spread * float(curve.max() / curve.min() - 1)


def test_a_trend_on_the_way_takes_more_of_a_benchmark_that_is_alone(world):
    def count(only):
        return {one.name: len(samples) for one, samples in fitting.calibration("image", world, only, None)}["pope"]

    assert count(None) == fitting.QUICK
    assert count(["pope"]) == len(fitting.benchmarks.get("pope").load(world)) > fitting.QUICK


def test_one_measurement_serves_all_kinds_of_trend_and_all_budgets(checkpoints, world, monkeypatch):
    monkeypatch.setattr(Resolved, "heldout", lambda *_: world)
    measured, measure = [], fitting.measure
    monkeypatch.setattr(fitting, "QUICK", 2)
    monkeypatch.setattr(fitting, "PICTURES", 2)
    monkeypatch.setattr(fitting, "measure", lambda *given: measured.append(given) or measure(*given))

    def trends(probes, method="fastv", keep=4, **fields):
        chosen = Resolved(Settings(method, keep=keep, fields=fields), [], {"image": str(checkpoints["image"])})
        chosen.probes = probes
        found = [chosen.fitted("image", *how) for how in (("exponential",), ("average",), ("rope", Reading(heads=0.5)))]
        chosen.close()
        return found

    shared = {}
    first, other = trends(shared, keep=4), trends(shared, keep=9)
    assert len(measured) == 2  # of both readings
    assert [one.curve(36).tolist() for one in other] == [one.curve(36).tolist() for one in first]
    alone = trends({}, keep=9)
    assert [one.curve(36).tolist() for one in other] == [one.curve(36).tolist() for one in alone]
    del measured[:]
    trends(shared, layer=1)
    trends(shared, method="himap")
    trends(shared, method="vscan", keep=4)
    trends(shared, method="vscan", keep=9)  # what leaves the tower, which the decoder's first cut then ranks, differs
    assert len(measured) == 8


def test_no_budget_moves_the_first_cut_in_the_decoder():
    for name in catalogue.names():
        first = [make(name, keep=keep).cuts(32)[0] for keep in (0.2, 0.5)]
        assert len({(cut.layer, cut.source, cut.rows) for cut in first}) == 1, name


def test_clips_are_fitted_over_frames_without_their_cls():
    probe = ScoreProbe()
    special = torch.zeros(4, 10, dtype=torch.bool)
    special[:, 0] = True
    within, frame = torch.arange(10.0).repeat(4), torch.arange(4.0).repeat_interleave(10)
    score = torch.exp(0.03 * within + 0.5 * frame)
    score[special.flatten()] = 1e4
    probe(score, Span(0, (3, 3), frames=4, special=special.flatten()))
    trend, *_ = fitted(probe, Fit(scope="factorised"))
    assert trend.rate == pytest.approx(0.03, abs=1e-5)
    assert trend.between.rate == pytest.approx(0.5, abs=1e-5)
    assert files.make(files.describe(trend), "x").weight(None, 40, 4)[39] == pytest.approx(
        float(torch.exp(torch.tensor(-0.03 * 9 - 0.5 * 3))), rel=1e-4
    )


def test_each_benchmark_beside_the_held_out_half(checkpoints, world, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Resolved, "heldout", lambda *_: world)
    out, stem = tmp_path / "each.toml", tmp_path / "each"
    words = ["--model", str(checkpoints["image"]), "--data", str(world), "--benchmarks", "pope,gqa", "--limit", "2"]
    assert main(["fit", "--method", "himap", "--each", *words]) == 1
    assert "name the file" in capsys.readouterr().err
    assert main(["fit", "--method", "himap", "--each", *words, "--out", str(out), "--plot", str(stem), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {one["benchmark"] for one in files.load(out)} == {"pope", "gqa"}
    assert found["heldout"]["benchmark"] == files.EVERY
    assert [path.rsplit("/", 1)[1] for path in found["figures"]] == ["each.svg", "each.png"]


def test_a_model_that_goes_by_a_name_keeps_its_trends_in_its_own_folder(checkpoints, world, tmp_path, monkeypatch):
    shutil.copytree(checkpoints["image"], tmp_path / "made")
    for place in ("eval.core.embedded.named", "eval.answering.resolved.named"):
        monkeypatch.setattr(place, lambda _: str(tmp_path / "made"))
    words = ["--model", "smol", "--data", str(world), "--benchmarks", "pope", "--limit", "2"]
    assert main(["fit", "--method", "fastv", *words]) == 0
    assert [one["method"] for one in files.load(tmp_path / "made" / "trends.toml")] == ["fastv"]


def test_a_prior_is_measured_where_the_cut_reads(checkpoints, world, tmp_path, capsys):
    out = tmp_path / "prior.json"
    words = ["--model", str(checkpoints["image"]), "--data", str(world), "--limit", "2", "--out", str(out), "--json"]
    assert main(["fit", "--method", "d2pruner", "--kind", "prior", *words]) == 0
    assert json.loads(capsys.readouterr().out)["layer"] == 1
    assert len(Prior.load(out).values) == 36


def test_a_prior_is_the_mean_attention_over_the_pictures_of_a_plain_folder(checkpoints, tmp_path, capsys):
    images, out, model = tmp_path / "images", tmp_path / "prior.json", str(checkpoints["image"])
    words = ["--model", model, "--data", str(images), "--limit", "2", "--out", str(out), "--layer", "1", "--json"]
    images.mkdir()
    assert main(["fit", "--method", "d2pruner", "--kind", "prior", *words]) == 1
    assert "holds no pictures" in capsys.readouterr().err
    for number in range(3):
        Image.effect_noise((60, 40), 90 + number).convert("RGB").save(images / f"{number}.png")
    assert main(["fit", "--method", "d2pruner", "--kind", "prior", *words]) == 0
    assert json.loads(capsys.readouterr().out)["pictures"] == 2
    family, seen = adapter(model).load(model), []
    for picture in of_folder(images, 2):
        encoded = family.encode([Request(PROMPT, images=[picture])])
        with make("fastv", keep=1.0, layer=1)(family) as trace, torch.inference_mode():
            family.model(**encoded.inputs)
        seen.append(trace.scores[0][0][0])
    torch.testing.assert_close(torch.tensor(Prior.load(out).values), torch.stack(seen).mean(0), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("trend", ["average", "rope-heads", "unrotated", "minus-black"])
def test_run_divides_by_what_it_fits_on_the_way(checkpoints, world, tmp_path, monkeypatch, trend):
    monkeypatch.setattr(Resolved, "heldout", lambda *_: world)
    monkeypatch.setattr(fitting, "QUESTIONS", 1)
    words = ["--model", str(checkpoints["image"]), "--data", str(world), "--benchmarks", "gqa", "--limit", "1"]
    words += ["--max-new-tokens", "1", "--arms", "none,both", "--report-samples", "0", "--stages", "all"]
    assert main(["run", "--method", "fastv", *words, "--trend", trend, "--out", str(tmp_path / "run")]) == 0
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["settings"]["trend"] == f"{trend}, all cuts"
    said = info["benchmarks"]["gqa"]["debias"]["both"]
    made = {"average": "Trend('table'", "rope-heads": "Trend('rope'", "unrotated": "trend=None"}
    made["minus-black"] = "Trend.blank('black', subtract=True)"
    read = {"average": "None", "rope-heads": "Reading(rope=True, heads=0.4375)", "unrotated": "Reading(rope=False"}
    assert made[trend] in said
    assert f"reading={read.get(trend)}" in said
    assert "stages='all'" in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--backend", "fork"], "which only our own methods can do"),
        (["--as-released", "--mode", "gather"], "which only our own methods can do"),
        (["--mode", "mask"], "need mode='gather'"),
        (["--backend", "fork", "--trend", "blank-mean"], "which only our own methods can do"),
        (["--backend", "fork", "--trend", "auto", "--padding", "sink"], "which only our own methods can do"),
        (["--as-released", "--trend", "auto", "--padding", "area"], "by its own rules"),
        (
            ["--method", "vispruner", "--arms", "padding", "--trend", "auto", "--padding", "sink"],
            "before the first layer",
        ),
        (["--padding", "areas"], "did you mean area"),
        (["--padding", "sink:x"], "--padding sink:x: could not convert"),
        (["--padding", "area:3"], "or sink:THRESHOLD"),
    ],
)
def test_another_reading_of_attention_is_refused_before_anything_is_loaded(flags, said, checkpoints, world, capsys):
    words = ["--method", "fastv", "--model", str(checkpoints["image"]), "--data", str(world), "--benchmarks", "gqa"]
    assert main(["run", *words, "--dry-run", "--trend", "unrotated", "--arms", "none,both", *flags]) in (1, 2)
    assert said in capsys.readouterr().err


def test_smol_never_divides_by_the_curves_of_llava(checkpoints, tmp_path, monkeypatch):
    """It has as many tokens as LLaVA-1.5, and no trend of its own in this folder: one is fitted to it."""
    shutil.copytree(checkpoints["image"], tmp_path / "smol")
    chosen = Resolved(Settings("fastv", keep=4), [], {"image": str(tmp_path / "smol")})
    monkeypatch.setitem(chosen.layout, "image", replace(chosen.layout["image"], tokens=576))
    monkeypatch.setattr(Resolved, "fitted", lambda *_: Trend.exponential(0.5))
    assert chosen.debias_for(None, "image", "trend").trend != Trend.exponential(0.5)
    (tmp_path / "smol" / "origin.json").write_text('{"world": "smol"}')
    assert chosen.debias_for(None, "image", "trend").trend == Trend.exponential(0.5)
