"""Runs a planned study: its questions, its trends, every cut in every arm, and the comparisons that the plan names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from debias import trends
from eval.answering.resolved import Resolved
from eval.answering.store import Folder
from eval.bias.diagnosis import bracket
from eval.bias.fitting import Fit
from eval.core import tables
from eval.core.embedded import named
from eval.core.files import write_json
from eval.core.settings import UNPRUNED, Settings
from eval.core.tables import Table, between, explain, say
from eval.evaluation import evaluate
from eval.papers import grid, study
from eval.papers.study import Comparison, Confirmation, Plan
from eval.scoring import statistics, verdict
from eval.scoring.contrast import Contrast, contrast, marked
from eval.scoring.results import Scored, results
from eval.showing import charts, drawings
from eval.showing.cells import canvas_of
from tiny.benchmarks import cached
from tiny.smol import data as smol_data

BENCHMARK = "gqa"  # the layout that the questions are written in
REHEARSAL = 60_000_000  # so much later begin the seeds of a rehearsal: it sees no question of the study


@dataclass(frozen=True)
class Begun:
    """When a run of a study began, from which commit, and the plan as it was then."""

    when: str
    commit: str
    plan: str


def confirm(plan: Plan, out: Path, base: Settings, rehearse: int | None = None) -> dict[str, Any]:
    """Runs what is not done yet, compares, and writes tables and the figure.

    base: how to answer (device, batch size, model). rehearse: so many other pictures, which confirm nothing.
    """
    begun = _begun(plan, out)
    may = may_confirm(plan, begun, base, rehearse)
    say(f"{plan.name}: {may.why}" if may.confirmed else f"{plan.name}: this run confirms nothing: {may.why}")
    parts = {"pictures": plan.pictures, "calibration": plan.calibration}
    pictures, calibration = (_data(out, name, part, rehearse) for name, part in parts.items())
    base = replace(base, model=base.model or plan.model, data=pictures, benchmarks=(BENCHMARK,))
    base = replace(base, dtype=plan.cuts["dtype"] if base.dtype == "auto" else base.dtype)
    count = rehearse or plan.calibration["n"]
    fitted = {layer: _trend(plan, layer, base, calibration, count, out) for layer in plan.cuts["layers"]}
    whole = _answered(replace(base, arms=(UNPRUNED,), out=out / UNPRUNED))
    cut = {
        (layer, keep): _answered(
            replace(
                _settings(plan, layer, base, keep), trend=str(fitted[layer]), out=out / f"layer-{layer}-keep-{keep}"
            )
        )
        for layer in plan.cuts["layers"]
        for keep in plan.cuts["keep"]
    }
    contrasts = compared(plan, cut)
    kept = _kept(cut, base)
    shown = [_comparisons(plan, contrasts, may), _scores(whole, cut), kept, _trends(fitted)]
    said = verdict.verdict([contrasts[0]], plan.primary.arm, f"with {contrasts[0].benchmark}")
    explain(f"\n{'' if may.confirmed else 'Not a confirmation: '}{said}\n")
    for table in shown:
        tables.show(table)
    tables.write(shown, out)
    named_rows = [replace(contrast, benchmark=f"{contrast.b}, {contrast.benchmark}") for contrast in contrasts]
    drawings.save(charts.forest(named_rows), out / "comparisons")
    told = {
        "name": plan.name,
        "model": Folder(out / UNPRUNED).info()["settings"]["models"]["image"],
        "confirmed": may.confirmed,
        "why": may.why,
        "begun": asdict(begun),
        "said": said,
        "unpruned": whole.arms[UNPRUNED].score.value,
        "kinds": {
            name.removeprefix("semantic/"): value
            for name, value in whole.arms[UNPRUNED].score.parts.items()
            if name.startswith("semantic/")
        },
        "scores": [
            {"layer": layer, "keep": keep, **{arm: contrast.score.value for arm, contrast in scored.arms.items()}}
            for (layer, keep), scored in cut.items()
        ],
        "kept": kept.rows,
        "trends": {layer: trends.load(path)[0] for layer, path in fitted.items()},
        "comparisons": [asdict(contrast) for contrast in contrasts],
    }
    write_json(out / "study.json", told)
    say(f"tables, the figure and all runs are in {out}")
    return {**told, "folder": str(out)}


def compared(plan: Plan, cut: Mapping[tuple[int, int], Scored]) -> list[Contrast]:
    """The primary comparison by itself, then the others, corrected together by Holm."""

    def pair(asked: Comparison) -> Contrast:
        scored = cut[asked.layer, asked.keep]
        a, b = scored.arms[asked.baseline], scored.arms[asked.arm]
        result, drawn, _ = contrast(scored.benchmark, scored.samples, a, b)
        spread = float(drawn.std())
        least = statistics.detectable(spread, plan.level) if spread else None
        return replace(result, benchmark=f"{asked.keep} tokens before layer {asked.layer}", least=least)

    first, *others = map(pair, (plan.primary, *plan.secondary))
    assert first.p is not None
    first = replace(first, p_holm=first.p, differs=first.p < plan.level)  # one planned comparison needs no correction
    return [first, *marked(others, plan.level)]


def _begun(plan: Plan, out: Path) -> Begun:
    """The start of this run: noted when its folder is new, read again when it goes on."""
    path = out / "begun.json"
    if path.is_file():
        begun = Begun(**json.loads(path.read_text(encoding="utf-8")))
        if begun.plan != plan.digest:
            raise ValueError(f"{out} holds a run of another version of {plan.path}; name a new folder with --out")
        return begun
    begun = Begun(datetime.now(timezone.utc).isoformat(), study.head(Path(__file__).parent), plan.digest)
    write_json(path, asdict(begun))
    return begun


def may_confirm(plan: Plan, begun: Begun, base: Settings, rehearse: int | None = None) -> Confirmation:
    """Whether a run is the planned run and began after its plan was committed."""
    if rehearse:
        return Confirmation(False, f"it is a rehearsal on {rehearse} other pictures")
    if base.model not in (None, plan.model):
        return Confirmation(False, f"the plan is about {plan.model}, not {base.model}")
    if base.dtype not in ("auto", plan.cuts["dtype"]):
        return Confirmation(False, f"the plan says {plan.cuts['dtype']}, not {base.dtype}")
    return study.verdict(plan, begun.commit, datetime.fromisoformat(begun.when))


def _data(out: Path, name: str, part: Mapping[str, Any], rehearse: int | None) -> Path:
    """The questions of one part of the plan, written below `out`."""
    first, n, padded = part["first"], part["n"], part.get("padded", 0)
    if rehearse:
        first, n, padded = first + REHEARSAL, rehearse, padded * rehearse // n
    how: dict[str, Any] = {key: tuple(part[key]) for key in ("things", "kinds") if key in part}
    where = out / "data" / f"{name}{f'-{rehearse}' if rehearse else ''}"
    return cached(name, lambda root: smol_data.write(root, first, n, padded, **how), where)


def _settings(plan: Plan, layer: int, base: Settings, keep: int) -> Settings:
    method, arms = plan.cuts["method"], tuple(plan.cuts["arms"])
    return replace(base, method=method, fields={"layer": layer}, keep=keep, arms=arms, share_prefix=True)


def _trend(plan: Plan, layer: int, base: Settings, data: Path, n: int, out: Path) -> Path:
    """A trends file with the trend before one layer, fitted on the calibration pictures alone."""
    path = out / f"trends-layer-{layer}.toml"
    if path.is_file():
        return path
    say(f"fitting the trend before layer {layer} on {n} pictures")
    model = named(base.model or plan.model)
    with closing(Resolved(_settings(plan, layer, base, plan.primary.keep), [], {"image": model})) as chosen:
        record, _ = chosen.record("image", data, [BENCHMARK], n, Fit(plan.calibration["kind"]))
    trends.dump([record], path)
    return path


def _answered(settings: Settings) -> Scored:
    """A run of the study, answered and scored."""
    report = evaluate(settings)
    if report.folder is None or not report.complete:
        raise ValueError(f"{settings.out}: {report.open} answers are missing; start the same command again")
    return results(Folder(report.folder))[0]


def _comparisons(plan: Plan, results: Sequence[Contrast], may: Confirmation) -> Table:
    rows: list[list[Any]] = []
    for asked, result in zip((plan.primary, *plan.secondary), results, strict=True):
        p = result.p_holm if result.p_holm is not None else 1.0
        shown = "<0.001" if p < 0.001 else f"{p:.3f}"
        mark = verdict.MARK if result.differs else ""
        size = between(result.delta, result.low, result.high)
        rows.append([asked.layer, asked.keep, result.b, size, shown, mark, result.up, result.down])
    first = plan.primary
    notes = [
        f"{may.why}. {results[0].n} pictures, one question each; points against {first.baseline}, paired by question.",
        f"First row: the primary comparison, planned alone, p uncorrected; the other {len(results) - 1} are corrected "
        f"together (Holm). p: exact McNemar. {verdict.MARK}: p < {plan.level:g}. Interval: BCa bootstrap, 95 %.",
    ]
    head = ["layer", "keep", "arm", f"− {first.baseline}, 95 %", "p", "", "won", "lost"]
    title = f"{plan.name}: the planned comparisons{'' if may.confirmed else ' (not a confirmation)'}"
    return Table(title, head, rows, notes, [place for place, result in enumerate(results) if result.differs])


def _scores(whole: Scored, cut: Mapping[tuple[int, int], Scored]) -> Table:
    arms = list(next(iter(cut.values())).arms)
    full = whole.arms[UNPRUNED].score.value
    rows: list[list[Any]] = [
        [layer, keep, full, *(scored.arms[arm].score.value for arm in arms)] for (layer, keep), scored in cut.items()
    ]
    return Table("Right answers, per cent", ["layer", "keep", UNPRUNED, *arms], rows)


def _kept(cut: Mapping[tuple[int, int], Scored], base: Settings) -> Table:
    """What stays at each cut: the patches that the question is about, and padding."""
    canvas = canvas_of(named(str(base.model)))
    rows: list[list[Any]] = []
    for (layer, keep), scored in cut.items():
        for arm in scored.arms:
            shares = grid.kept(scored, arm, canvas)
            rows.append([layer, keep, arm, *(None if share is None else bracket(share, 3) for share in shares)])
    notes = ["recall: of the patches that the question is about; padding: of the kept tokens. In brackets 95 %."]
    return Table("What is kept", ["layer", "keep", "arm", "recall", "padding"], rows, notes)


def _trends(fitted: Mapping[int, Path]) -> Table:
    rows: list[list[Any]] = []
    for layer, path in fitted.items():
        (record,) = trends.load(path)
        bounds = between(*record["rise"]) if "rise" in record else None
        rate = f"{record['rate']:.4f}" if "rate" in record else None
        rows.append([layer, rate, bounds, record.get("r2"), record.get("found"), record["questions"]])
    notes = ["rise: the log of last over first. Where no trend is found, the arm trend divides by 1."]
    return Table(
        "The trends that were divided by", ["layer", "rate", "rise, 95 %", "R^2", "found", "pictures"], rows, notes
    )
