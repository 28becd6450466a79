"""The trends of one method on one model: fitted, written into a trends file, shown beside those that were there."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from debias import Trend
from debias import trends as files
from debias.fitting.settle import LEAST_R2, NONE
from eval.answering.checkpoints import folder_of
from eval.answering.resolved import Resolved
from eval.answering.trends import is_published
from eval.bias.fitting import Fit, calibration, prior
from eval.core.embedded import EMBEDDED, data_of
from eval.core.settings import QUESTIONS, Settings
from eval.core.tables import Table, say, show
from eval.showing import drawings
from pruners.loading.folder import BESIDE
from pruners.prior import named

HELDOUT = "held-out"
Found = dict[str, tuple[dict[str, Any], torch.Tensor]]  # where it was measured -> record, curve


def fit(
    settings: Settings,
    how: Fit,
    *,
    video: bool = False,
    only: Sequence[str] | None = None,
    each: bool = False,
    out: Path | None = None,
    plot: Path | None = None,
) -> dict[str, Any]:
    """Fits the trend of a method's score, writes it into a trends file, and shows it; returns its record.

    settings: method, model, data, and limit: questions of each benchmark. how: what is fitted; of kind "prior", the
    average attention that D2Pruner divides by. video: on clips. only: these benchmarks. each: one trend of every
    benchmark of the data. out: the file (None: the model's own). plot: the stem of a figure.
    """
    media = "video" if video else "image"
    model = settings.model or str(EMBEDDED[media])
    data, limit = settings.data, settings.limit or QUESTIONS
    with closing(Resolved(settings, [], {media: model})) as chosen:
        if how.kind == "prior":
            place = named(out or folder_of(chosen.models[media]) / BESIDE[0])
            tiled = chosen.layout[media].tokens is None
            measured_on = data or chosen.heldout(media)
            return prior(chosen.adapter(media), chosen.pruner, media, tiled, measured_on, place, limit)
        fitted = (_each if each else _together)(chosen, media, data, only, limit, how)
        out = out or folder_of(chosen.models[media]) / "trends.toml"
        stored = _known(chosen, media)
    written = [record for name, (record, _) in fitted.items() if name != HELDOUT] or [
        record for record, _ in fitted.values()
    ]
    method = settings.method
    others = [record for record in files.load(out) if record["method"] != method] if out.exists() else []
    out.parent.mkdir(parents=True, exist_ok=True)
    files.dump(sorted([*others, *written], key=lambda record: (record["method"], record["benchmark"])), out)
    show(table(method, {name: record for name, (record, _) in fitted.items()}))
    say(f"written to {out}")
    drawn = draw(plot, fitted, stored) if plot else []
    first = written[0] if not each else {"trends": written, "heldout": fitted[HELDOUT][0]}
    return {**first, "file": str(out), "figures": drawn}


def _together(
    chosen: Resolved, media: str, data: Path | None, only: Sequence[str] | None, limit: int, how: Fit
) -> Found:
    """One trend for everything."""
    record, curve = chosen.record(media, data or chosen.heldout(media), only, limit, how)
    return {record["data"]: (record, curve)}


def _each(chosen: Resolved, media: str, data: Path | None, only: Sequence[str] | None, limit: int, how: Fit) -> Found:
    """The held-out trend, and one of every benchmark of the data."""
    fitted = {HELDOUT: chosen.record(media, chosen.heldout(media), None, limit, how)}
    root = data or data_of(chosen.models[media])
    for benchmark, _ in calibration(media, root, only, 1):
        record, curve = chosen.record(media, root, [benchmark.name], limit, how)
        fitted[benchmark.name] = ({**record, "benchmark": benchmark.name}, curve)
    return fitted


def _known(chosen: Resolved, media: str) -> dict[str, Trend]:
    """Trends that are there already: beside the checkpoint, and the released ones of this method."""
    out, method, own = {}, chosen.settings.method, chosen.own_trends(media)
    if own is not None and any(record["method"] == method for record in files.load(own)):
        out["beside the checkpoint"] = files.find(method, None, own)
    if is_published(method, chosen.layout[media].tokens):
        out["released"] = files.find(method)
    return out


def table(method: str, fitted: dict[str, dict[str, Any]]) -> Table:
    """The records of fitted trends, by what they were measured on."""
    head = ["measured on", "kind", "rate", "rise", "its 95 %", "R^2", "layer", "questions", "found"]
    rows = []
    for name, record in fitted.items():
        rate, trend = record.get("rate"), files.make(record, name)
        slots = trend.curve(trend.length).log() if trend.length else None
        rise = None if slots is None else float(slots[0] - slots[-1])
        bounds = f"[{record['rise'][1]:.2f}, {record['rise'][2]:.2f}]" if "rise" in record else None
        rise = record["rise"][0] if "rise" in record else rise
        rows.append([name, record["kind"], f"{rate:.6f}" if rate is not None else None, rise, bounds, record.get("r2"),
                     record["layer"], record["questions"], record.get("found")])  # fmt: skip
    first = next(iter(fitted.values()))
    notes = [
        f"{first['pruner']} on {first['model']}",
        "rise: the log of last over first, and its interval over pictures. A trend is kept when that leaves out 0 and "
        f"R^2 is at least {LEAST_R2}; otherwise its weights are 1: {NONE}.",
    ]
    return Table(f"Trend of {method}", head, rows, notes)


def draw(stem: Path, fitted: Found, stored: dict[str, Trend]) -> list[str]:
    """The measured curves with what was fitted to them, and stored trends of the same layout."""
    curves, fits = {}, {}
    for name, (record, curve) in fitted.items():
        trend = files.make(record, name)
        curves[name] = curve.tolist()
        what = NONE if record.get("found") == NONE else record["kind"]
        fits[f"{name}, {what}"] = inverse(trend, len(curve))
    fits |= {name: inverse(trend, len(curve)) for name, trend in stored.items() if trend.length in (None, len(curve))}
    return [str(path) for path in drawings.save(drawings.fits(curves, fits), stem)]


def inverse(trend: Trend, length: int) -> list[float]:
    """The trend itself: what scores are divided by."""
    frames = length // trend.length if trend.scope != "sequence" and trend.length else 1
    values: list[float] = (1 / trend.weight(None, length, frames)).tolist()
    return values
